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
_COLOURS_STREAM = 6


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
    sequence = _below(num_links, draws)
    sequence.flags.writeable = False
    return sequence


@lru_cache(maxsize=4)
def matching_sequence(graph: CommunicationGraph, activations: int, run_seed: int, iteration: int) -> NDArray[np.int64]:
    """The links that are activated in one iteration, in order, in rounds of matchings.

    A round activates all links of one colour of `link_colours`: no two of them have an agent in common, so that they
    run in parallel. An iteration begins at a drawn colour and goes through all of them again and again, upwards or
    downwards as drawn; the links of a round are in a drawn order. A longer sequence begins with the shorter one.

    Args:
        graph: the communication graph; one without links gives an empty sequence.
        activations: K, the length of the sequence; the last round may be cut short.
        run_seed: the run's seed, at least 0.
        iteration: number of the iteration, at least 0.

    Returns:
        Link indices, shape (K,); not to be written to.
    """
    num_links = len(graph.links)
    periods = -(-activations // num_links) if num_links else 0
    stream = _stream(run_seed, _MATCHINGS_STREAM, iteration)
    draw = stream.random_raw(1)
    keys = stream.random_raw(periods * num_links).reshape(periods, num_links)
    colours = link_colours(graph)
    count = int(colours.max(initial=-1)) + 1
    start, step = int(_below(count, draw)[0]), 1 - 2 * int(draw[0] & np.uint64(1))
    turns = step * (colours - start) % count if count else colours
    sequence = np.lexsort((keys, np.broadcast_to(turns, keys.shape))).reshape(-1)[:activations].astype(np.int64)
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
    be, d, for trees and even rings; 3 for odd rings. The colours are then numbered in a mixed order, always the same:
    on complete graphs, greedy ones of successive numbers would average much the same, and take twice the rounds.
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
    count = int(colours.max(initial=-1)) + 1
    colours = np.argsort(_stream(0, _COLOURS_STREAM, count).random_raw(count))[colours]
    colours.flags.writeable = False
    return colours


def activations_to_average(graph: CommunicationGraph, residual: float, kind: str) -> int:
    """The number of link activations, each of which averages its two ends, that bring all agents near to the mean.

    Near: from any start, the deviation from the mean (of one's component), root mean square over the agents, is at most
    `residual` times what it was. For `matchings` that holds for every sequence of `matching_sequence`, and is measured:
    it is the largest singular value, off the mean, of the product of the rounds' matrices; the number is one of whole
    rounds. For links drawn at random it holds for the expected mean square, which shrinks by the second largest
    eigenvalue of E[W] = I - Laplacian / (2 L) at each activation or faster (Boyd, Ghosh, Prabhakar & Shah 2006,
    Randomized gossip algorithms, proof of Theorem 3).

    Args:
        graph: the communication graph.
        residual: above 0; 1 and more needs no activation.
        kind: `matchings`; or `seeded` or `poisson`, whose links are random.

    Raises:
        ValueError: `residual` is not above 0.
    """
    if not residual > 0.0:
        raise ValueError(f"residual must be above 0, got {residual}")
    if residual >= 1.0 or not graph.links:
        return 0
    if kind != "matchings":
        return _random_activations(graph, residual)
    colours = link_colours(graph)
    rounds = [np.flatnonzero(colours == colour) for colour in range(int(colours.max()) + 1)]
    orders = [[*rounds[start:], *rounds[:start]] for start in range(len(rounds))]
    return max(
        _activations_in_rounds(graph, order, residual)
        for forwards in orders
        for order in (forwards, [forwards[0], *forwards[:0:-1]])
    )


def _random_activations(graph: CommunicationGraph, residual: float) -> int:
    laplacian = np.zeros((graph.num_agents, graph.num_agents))
    for i, j in graph.links:
        laplacian[[i, j], [i, j]] += 1.0
        laplacian[[i, j], [j, i]] -= 1.0
    slowest = np.linalg.eigvalsh(laplacian)[len(graph.components)]
    shrinks_by = 1.0 - slowest / (2 * len(graph.links))
    return max(1, math.ceil(2.0 * math.log(residual) / math.log(shrinks_by))) if shrinks_by > 1e-12 else 1


def _activations_in_rounds(graph: CommunicationGraph, order: list[NDArray[np.int64]], residual: float) -> int:
    """Activations of the least number of rounds, one after the other in this order, that leave the residual at most."""

    def is_far(deviations: NDArray[np.float64]) -> bool:
        return float(np.linalg.norm(deviations, 2)) > residual * (1.0 + 1e-9)

    start = np.eye(graph.num_agents)
    for component in graph.components:
        start[np.ix_(component, component)] -= 1.0 / len(component)
    period = start.copy()
    for links in order:
        _average(graph, links, period)
    powers = [period]  # of 1, 2, 4, ... periods
    while is_far(powers[-1]):
        powers.append(powers[-1] @ powers[-1])
    deviations, periods = start, 0
    for exponent in range(len(powers) - 2, -1, -1):
        longer = powers[exponent] @ deviations
        if is_far(longer):
            deviations, periods = longer, periods + 2**exponent
    activations = periods * len(graph.links)
    for links in order:
        _average(graph, links, deviations)
        activations += len(links)
        if not is_far(deviations):
            break
    return activations


def _average(graph: CommunicationGraph, links: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    """Replace the rows of both ends of each link of a matching by their mean."""
    i, j = np.array(graph.links)[links].T
    values[i] = values[j] = (values[i] + values[j]) / 2


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


def _below(bound: int, draws: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Uniform integers below a bound of less than 2**32, of the upper halves of draws of 64 bits."""
    high = draws >> np.uint64(32)
    return ((high * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def _stream(run_seed: int, *key: int) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence(run_seed, spawn_key=key))
