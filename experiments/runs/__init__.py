"""Experiments as queues of runs: files, records, statistics, tables."""
