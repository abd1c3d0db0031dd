"""What all tests share, so that results do not vary: one torch thread; properties derandomised and by no clock; Ctrl-C.

A shell has what it starts in the background ignore Ctrl-C, and the processes of the tests would inherit that.
"""

import signal

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile(
    "deterministic", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("deterministic")
