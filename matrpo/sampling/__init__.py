"""Sampling: acting step by step, and the samples of an iteration."""
