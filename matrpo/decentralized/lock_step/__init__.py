"""The lock step of agents and environment servers: their messages, who takes part, which iteration begins."""
