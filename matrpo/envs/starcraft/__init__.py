"""The StarCraft Multi-Agent Challenge, and its like in JAX."""
