"""Consensus of N agents on m random samples of an iteration's M, for links too slow for the log ratios of all.

The agents agree on the same samples, drawn anew in every iteration from what they all know, the run's seed and the
iteration's number. The means over samples in the links' terms of (22) become means over those alone; the agents' own
advantages count on all samples, as ever.
"""

from __future__ import annotations

import numpy as np

from matrpo import random_streams
from matrpo.consensus.peer import Step
from matrpo.settings.config import Config


def shared_rows(config: Config, iteration: int) -> np.ndarray:
    """Indices of the samples that an iteration's consensus uses: (m,), ascending, the same for all agents."""
    keys = random_streams.shared_samples(config.seed, iteration).generate_state(config.samples, np.uint64)
    rows: np.ndarray = np.sort(np.argsort(keys, kind="stable")[: config.shared_samples])
    return rows


def on_shared_samples(step: Step, config: Config, iteration: int) -> Step:
    """Wrap an agent's local step so that it exchanges log ratios of the shared samples alone.

    Args:
        step: takes the consensus terms of all samples, (N, M), and gives their log ratios, (N, M).
        config: the run's settings.
        iteration: of the consensus.

    Returns:
        The same of the shared samples: (N, m) to (N, m). A mean over them stands for one over all, hence the M / m.
    """
    if config.shared_samples == config.samples:
        return step
    rows = shared_rows(config, iteration)
    scale = np.float32(config.samples / len(rows))

    def shared_step(term: np.ndarray) -> np.ndarray:
        weights = np.zeros((len(term), config.samples), term.dtype)
        weights[:, rows] = term * scale
        return np.take(step(weights), rows, axis=1)

    return shared_step
