"""Benchmarks of runs with real processes."""
