"""Multi-agent MuJoCo: robots whose joints are divided among agents."""
