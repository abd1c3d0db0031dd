"""Environments: batched first, one observation, reward and action head for each agent."""
