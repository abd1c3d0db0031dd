"""Benchmarks, studies and plots."""
