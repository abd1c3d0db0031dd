"""Wrappers: third-party environments as a `VectorEnv`, and any `VectorEnv` as a PettingZoo environment."""
