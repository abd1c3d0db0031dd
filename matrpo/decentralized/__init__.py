"""Algorithm 1: one agent, and its side of an iteration."""
