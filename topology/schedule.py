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

# Keep the schedules' random streams apart, and from those of `matrpo.random_streams`.
_SEEDED_STREAM = 0
_POISSON_STREAM = 1
_MATCHINGS_STREAM = 5

FIXED_COLOURS = 4
"""Colours of links up to which all periods of matchings have the same order."""


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


@lru_cache(maxsize=4)
def matching_sequence(graph: CommunicationGraph, activations: int, run_seed: int, iteration: int) -> NDArray[np.int64]:
    """The links that are activated in one iteration, in order, in rounds of matchings.

    A round activates all links of one colour of `link_colours`: no two of them have an agent in common, so that they
    run in parallel. A period has one round of each colour, in a drawn order. Of up to `FIXED_COLOURS` colours, all
    periods have the same order, in which averaging mixes fastest; of more, each draws its own: in a fixed one, what a
    star's centre hears would go from each leaf to the next alone. A longer sequence begins with the shorter one.

    Args:
        graph: the communication graph; one without links gives an empty sequence.
        activations: K, the length of the sequence; the last round may be cut short.
        run_seed: the run's seed, at least 0.
        iteration: number of the iteration, at least 0.

    Returns:
        Link indices, shape (K,); not to be written to.
    """
    num_links, colours = len(graph.links), link_colours(graph)
    count = int(colours.max(initial=-1)) + 1
    periods = -(-activations // num_links) if num_links else 0
    size = periods * (count + num_links)
    draws = _stream(run_seed, _MATCHINGS_STREAM, iteration).random_raw(size).reshape(periods, count + num_links)
    turns = draws[:, :count].argsort(axis=1, kind="stable")
    if count <= FIXED_COLOURS:
        turns = np.broadcast_to(turns[:1], turns.shape)
    sequence = np.lexsort((draws[:, count:], turns[:, colours])).reshape(-1)[:activations].astype(np.int64)
    sequence.flags.writeable = False
    return sequence


def link_sequence(
    kind: str, graph: CommunicationGraph, activations: int, run_seed: int, iteration: int
) -> NDArray[np.int64]:
    """The common sequence of link activations of one iteration.

    Args:
        kind: `seeded`, for independent draws, or `matchings`, for rounds.
        graph, activations, run_seed, iteration: as of `matching_sequence`.

    Returns:
        Link indices, shape (K,); not to be written to.

    Raises:
        ValueError: another kind, such as `poisson`: its order is known only when it has happened.
    """
    if kind == "matchings":
        return matching_sequence(graph, activations, run_seed, iteration)
    if kind == "seeded":
        return seeded_sequence(len(graph.links), activations, run_seed, iteration)
    raise ValueError(f"{kind!r} is no common sequence: expected seeded or matchings")


@lru_cache(maxsize=4)
def link_colours(graph: CommunicationGraph) -> NDArray[np.int64]:
    """A proper edge colouring: the colour of each link, from 0, shape (L,); links with a common end differ.

    Greedy, each link as it is met breadth first: at most 2 d - 1 colours at a largest degree d, and as few as there can
    be, d, for trees and even rings; 3 for odd rings.
    """
    colours = np.full(len(graph.links), -1, np.int64)
    for component in graph.components:
        queue = [component[0]]
        for agent in queue:  # It grows on the way.
            for link in graph.links_of(agent):
                if colours[link] < 0:
                    other = graph.other_end(link, agent)
                    taken = {colours[e] for end in (agent, other) for e in graph.links_of(end)}
                    colours[link] = next(colour for colour in range(len(taken) + 1) if colour not in taken)
                    queue.append(other)
    colours.flags.writeable = False
    return colours


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
