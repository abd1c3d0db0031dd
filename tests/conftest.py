"""What all tests share: one torch thread and derandomised properties, so that results do not vary."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")
