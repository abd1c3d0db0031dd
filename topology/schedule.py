"""The schedule of link activations, which every agent derives from the run's seed without a coordinator.

Only numpy's bit streams and seed sequences are used, which numpy keeps stable over versions, unlike its
distributions: two machines with different numpy versions derive the same schedule.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from matrpo.topology.graph import CommunicationGraph

# Keep the two schedules' random streams apart.
_SEEDED_STREAM = 0
_POISSON_STREAM = 1


@lru_cache(maxsize=4)
def seeded_sequence(num_links: int, activations: int, run_seed: int, iteration: int) -> NDArray[np.int64]:
    """The links that Algorithm 1 activates in one iteration, in order: uniform and independent draws.

    Activation k (1-based; 0 names the initial state) is at position k-1. Different iterations and run seeds
    give independent sequences; a longer sequence begins with the shorter one.

    Args:
        num_links: L, below 2**32; a graph without links gives an empty sequence.
        activations: K, the length of the sequence.
        run_seed: the run's seed, at least 0.
        iteration: number of the iteration, at least 0.

    Returns:
        Link indices in 0 .. L-1, shape (K,); not to be written to.
    """
    draws = _stream(run_seed, _SEEDED_STREAM, iteration).random_raw(activations if num_links else 0)
    high = draws >> np.uint64(32)
    sequence = ((high * np.uint64(num_links)) >> np.uint64(32)).astype(np.int64)
    sequence.flags.writeable = False
    return sequence


def positions_of(agent: int, graph: CommunicationGraph, sequence: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The activations (k, link) of `sequence` that touch `agent`, in order; k counts from 1."""
    own = set(graph.links_of(agent))
    return [(k, e) for k, e in enumerate(sequence.tolist(), start=1) if e in own]


class PoissonClock:
    """The exponential clock of one link in one iteration (asynchronous ADMM of Wei & Ozdaglar).

    Its waiting times are a function of the arguments alone, so both ends of a link own the same clock.

    Args:
        link: index of the link.
        run_seed: the run's seed, at least 0.
        iteration: number of the iteration, at least 0.
        mean_interval: mean waiting time in seconds, above 0.
    """

    def __init__(self, link: int, run_seed: int, iteration: int, mean_interval: float) -> None:
        if not 0.0 < mean_interval < math.inf:
            raise ValueError(f"mean_interval must be positive and finite, got {mean_interval}")
        self._stream = _stream(run_seed, _POISSON_STREAM, iteration, link)
        self._mean = mean_interval

    def next_wait(self) -> float:
        """Seconds from the last ring of the clock to its next."""
        uniform = (int(self._stream.random_raw()) >> 11) * 2.0**-53
        return -self._mean * math.log1p(-uniform)


def _stream(run_seed: int, *key: int) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence(run_seed, spawn_key=key))
