"""Benchmarks, the cost model of a run, experiments as queues of runs, plots and reports."""
