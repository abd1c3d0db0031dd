"""The cluster file, with the endpoint of every process of a run, and the processes' keys."""
