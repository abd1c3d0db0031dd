"""Particle tasks, batched in NumPy."""
