"""How many processor cores this process may use."""

import os


def usable_cores() -> int:
    """Number of cores that this process may run on; of all, where the system does not say which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
