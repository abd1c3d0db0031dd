"""Sampling: actors that choose actions step by step, and the rollouts that they fill."""
