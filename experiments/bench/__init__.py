"""Benchmarks: `matrpo bench`."""
