"""Vectorised multi-agent environments: one observation, reward and action for each agent."""
