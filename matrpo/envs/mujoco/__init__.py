"""MuJoCo's robots, their joints shared by several agents."""
