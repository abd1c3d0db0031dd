"""Averaging over a graph's links (gossip): how strongly an activation should act, and how many there should be.

At an activation of link (i, j), m^i becomes m^i - (beta/2) (m^i - m^j), and m^j likewise: both their mean, if beta is 1
(Boyd, Ghosh, Prabhakar & Shah 2006, "Randomized gossip algorithms"). Any beta between 0 and 2 keeps the sum and lets no
difference grow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from matrpo.topology.errors import TopologyError
from matrpo.topology.graph import CommunicationGraph
from matrpo.topology.schedule import FIXED_COLOURS, link_colours, matching_sequence

_TRIED = 0.01
"""Residual at which relaxations are compared."""

MOST_PER_LINK = 1000
"""Most activations of each link that averaging may take."""

_DRAWS = 64
"""Most values of each agent whose averages are followed."""


def relaxation(graph: CommunicationGraph, kind: str) -> float:
    """The beta with which averaging mixes fast, to three digits.

    With c = 2 matchings, the rounds are two projections in turn. The largest cosine between what they keep is 1 - a/c,
    with the graph's algebraic connectivity a, and the best over-relaxation that of SOR (Young 1954): 2 / (1 + sine).
    With 3 and 4 matchings it is a good guess, taken where it needs fewer activations than the mean, 1. Rounds of more,
    whose order changes, and random links gain nothing by it.

    Args:
        graph: the communication graph.
        kind: of the schedule: `matchings`; or `seeded` or `poisson`, whose links are random.
    """
    count = _num_colours(graph)
    if kind != "matchings" or not 2 <= count <= FIXED_COLOURS or not graph.is_connected:
        return 1.0
    cosine = max(0.0, 1.0 - graph.algebraic_connectivity() / count)
    beta = round(2.0 / (1.0 + math.sqrt(1.0 - cosine**2)), 3)
    needed = _measured(graph, _TRIED, beta)
    return beta if _measured(graph, _TRIED, 1.0, limit=needed) >= needed else 1.0


def activations_to_average(graph: CommunicationGraph, residual: float, kind: str, beta: float = 1.0) -> int:
    """The number of link activations that bring agents near to the mean of what they brought.

    Near: the root mean square deviation from the mean is at most `residual` times what it was. For `matchings` that is
    measured, for independent values and one drawn order, in whole rounds. For random links and beta = 1, the expected
    mean square shrinks at each activation at least by the second largest eigenvalue of E[W] = I - Laplacian / (2 L)
    (Boyd et al. 2006, proof of Theorem 3), from any start.

    Args:
        graph: the communication graph, connected or without links.
        residual: above 0; 1 and more needs no activation.
        kind: as of `relaxation`.
        beta: how strongly an activation acts, above 0 and below 2; of matchings.

    Raises:
        ValueError: `residual` or `beta` is out of its range, or the graph has parts that no link connects.
        TopologyError: it would take more than `MOST_PER_LINK` for each link.
    """
    if not (residual > 0.0 and 0.0 < beta < 2.0):
        raise ValueError(f"residual must be above 0 and beta between 0 and 2, got {residual} and {beta}")
    if residual >= 1.0 or not graph.links:
        return 0
    if not graph.is_connected:
        raise ValueError("agents in parts that no link connects have no common mean to reach")
    needed = _measured(graph, residual, beta) if kind == "matchings" else _expected(graph, residual)
    if needed >= MOST_PER_LINK * len(graph.links):
        raise TopologyError(
            f"averaging over {graph.name} of {graph.num_agents} agents, by the schedule {kind} and with beta {beta:g}, "
            f"takes {MOST_PER_LINK} activations of each link or more"
        )
    return needed


def _expected(graph: CommunicationGraph, residual: float) -> int:
    shrinks_by = 1.0 - graph.algebraic_connectivity() / (2 * len(graph.links))
    return max(1, math.ceil(2.0 * math.log(residual) / math.log(shrinks_by))) if shrinks_by > 1e-12 else 1


def _measured(graph: CommunicationGraph, residual: float, beta: float, limit: int | None = None) -> int:
    """How many activations leave that residual; if they are as many as the limit, it may take more."""
    limit = MOST_PER_LINK * len(graph.links) if limit is None else limit
    deviations = _independent(graph.num_agents)
    deviations -= deviations.mean(0)
    enough, activations = residual * (1.0 + 1e-9) * np.linalg.norm(deviations), 0
    rounds = _rounds(graph)
    while activations < limit and np.linalg.norm(deviations) > enough:
        links = next(rounds)
        i, j = np.array(graph.links)[links].T
        change = (deviations[i] - deviations[j]) * (beta / 2)
        deviations[i] -= change
        deviations[j] += change
        activations += len(links)
    return activations


def _independent(num_agents: int) -> NDArray[np.float64]:
    """Independent values of all agents, (agents, draws): exactly so for few agents, random signs for more."""
    if num_agents <= _DRAWS:
        return np.eye(num_agents)
    bits = np.random.Philox(0).random_raw(num_agents * _DRAWS) >> np.uint64(63)
    signs: NDArray[np.float64] = 2.0 * bits.reshape(num_agents, _DRAWS).astype(np.float64) - 1.0
    return signs


def _rounds(graph: CommunicationGraph) -> Iterator[NDArray[np.int64]]:
    """Rounds of matchings without end, in one drawn order."""
    colours = link_colours(graph)
    sizes, periods, done = np.bincount(colours), 8, 0
    while True:
        sequence = matching_sequence(graph, periods * len(colours), run_seed=0, iteration=0)
        while done < len(sequence):
            yield sequence[done : done + sizes[colours[sequence[done]]]]
            done += sizes[colours[sequence[done]]]
        periods *= 2


def _num_colours(graph: CommunicationGraph) -> int:
    return len(set(link_colours(graph).tolist()))
