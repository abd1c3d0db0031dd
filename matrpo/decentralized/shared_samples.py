"""Consensus of N agents on m random samples of an iteration's M, for links too slow for the log ratios of all.

The agents agree on the same samples, drawn anew in every iteration from what they all know, the run's seed and the
iteration's number. The means over samples in the links' terms of (22) become means over those alone; the agents' own
advantages count on all samples, as ever.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from matrpo import random_streams
from matrpo.settings.config import Config


@dataclass(frozen=True, eq=False)
class SharedSamples:
    """The samples of an iteration whose log ratios are exchanged.

    Attributes:
        num_samples: M, all of the iteration's.
        rows: indices of the shared ones, (m,), ascending, the same for all agents; None: all.
    """

    num_samples: int
    rows: np.ndarray | None = None

    @classmethod
    def of(cls, config: Config, iteration: int) -> SharedSamples:
        """Those of an iteration."""
        if config.shared_samples == config.samples:
            return cls(config.samples)
        keys = random_streams.shared_samples(config.seed, iteration).generate_state(config.samples, np.uint64)
        return cls(config.samples, np.sort(np.argsort(keys, kind="stable")[: config.shared_samples]))

    def spread(self, term: np.ndarray) -> np.ndarray:
        """A term of the links as weights of all samples: a mean over m stands for one over all M, hence the M / m.

        Shapes (N, m) -> (N, M).
        """
        if self.rows is None:
            return term
        weights = np.zeros((len(term), self.num_samples), term.dtype)
        weights[:, self.rows] = term * np.float32(self.num_samples / len(self.rows))
        return weights

    def select(self, ratios: np.ndarray) -> np.ndarray:
        """Log ratios of the shared samples. Shapes (N, M) -> (N, m)."""
        return ratios if self.rows is None else np.take(ratios, self.rows, axis=1)
