"""How many activations average the agents' values, against exact products of the activations' matrices."""

from __future__ import annotations

import numpy as np
import pytest

from matrpo.topology import (
    CommunicationGraph,
    activations_to_average,
    link_colours,
    link_sequence,
    make_graph,
    matching_sequence,
)

TWO_PARTS = CommunicationGraph.from_links(7, [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (5, 6)], "two parts")


def mean_of_components(graph: CommunicationGraph) -> np.ndarray:
    mean = np.zeros((graph.num_agents, graph.num_agents))
    for component in graph.components:
        mean[np.ix_(component, component)] = 1.0 / len(component)
    return mean


def worst_deviations(graph: CommunicationGraph, sequence: np.ndarray) -> list[float]:
    """After each activation, the largest deviation from the mean, relative to the start's: a spectral norm."""
    product, mean, worst = np.eye(graph.num_agents), mean_of_components(graph), []
    for i, j in (graph.links[e] for e in sequence):
        product[i] = product[j] = (product[i] + product[j]) / 2
        worst.append(float(np.linalg.norm(product - mean, 2)))
    return worst


@pytest.mark.parametrize("residual", [0.3, 0.1, 0.01, 1e-6])
@pytest.mark.parametrize(
    "graph",
    [
        *(make_graph("ring", n, 0) for n in (3, 4, 5, 6)),
        make_graph("star", 5, 0),
        make_graph("complete", 5, 0),
        TWO_PARTS,
    ],
    ids=lambda graph: f"{graph.name}-{graph.num_agents}",
)
def test_matchings_take_what_the_slowest_of_their_sequences_takes(graph: CommunicationGraph, residual: float) -> None:
    activations = activations_to_average(graph, residual, "matchings")
    needed = set()
    for iteration in range(60):
        sequence = matching_sequence(graph, activations, 0, iteration)
        near = np.array(worst_deviations(graph, sequence)) <= residual * (1 + 1e-6)
        assert near[-1]
        colours = link_colours(graph)[sequence]
        ends = [*np.flatnonzero(np.diff(colours)), activations - 1]  # of rounds
        needed.add(next(at for at in ends if near[at]) + 1)
    assert max(needed) == activations


def test_rings_of_two_colours_by_hand() -> None:
    """The two rounds are projections at angles of cosines |cos(2 pi m / N)|: r rounds leave cos(2 pi / N)^(r-1)."""
    for n in (6, 8, 12, 24):
        cosine = np.cos(2 * np.pi / n)
        rounds = 1 + np.ceil(np.log(0.01) / np.log(cosine) - 1e-9)
        assert activations_to_average(make_graph("ring", n, 0), 0.01, "matchings") == rounds * n // 2
    assert activations_to_average(make_graph("ring", 4, 0), 0.01, "matchings") == 4


def test_random_links_by_hand() -> None:
    """A ring's smallest positive Laplacian eigenvalue is 2 - 2 cos(2 pi / N), a complete graph's N, a star's 1."""
    by_hand = {
        ("ring", 12): 1 - (2 - 2 * np.cos(2 * np.pi / 12)) / 24,
        ("complete", 6): 1 - 6 / 30,
        ("star", 12): 1 - 1 / 22,
    }
    for (spec, n), shrinks_by in by_hand.items():
        activations = np.ceil(2 * np.log(0.1) / np.log(shrinks_by))
        graph = make_graph(spec, n, 0)
        assert activations_to_average(graph, 0.1, "seeded") == activations
        assert activations_to_average(graph, 0.1, "poisson") == activations


@pytest.mark.parametrize("n", [6, 12])
def test_random_links_average_as_far_as_is_expected_and_matchings_farther(n: int) -> None:
    graph, residual = make_graph("ring", n, 0), 0.1
    matchings, random = (activations_to_average(graph, residual, kind) for kind in ("matchings", "seeded"))
    assert matchings < random / 3
    start = np.cos(2 * np.pi * np.arange(n) / n)  # A ring's slowest deviation.
    left = {}
    for kind in ("matchings", "seeded"):
        squares = []
        for iteration in range(100):
            values = start.copy()
            for i, j in (graph.links[e] for e in link_sequence(kind, graph, matchings, 0, iteration)):
                values[i] = values[j] = (values[i] + values[j]) / 2
            squares.append(np.square(values).sum() / np.square(start).sum())
        left[kind] = np.sqrt(np.mean(squares))
    assert left["matchings"] <= residual
    assert left["seeded"] > 2 * residual
    expected = 1.0 - (2 - 2 * np.cos(2 * np.pi / n)) / (2 * n)
    assert left["seeded"] ** 2 < expected**matchings * 1.3


@pytest.mark.parametrize("kind", ["matchings", "seeded"])
def test_small_cases(kind: str) -> None:
    assert activations_to_average(make_graph("none", 1, 0), 0.1, kind) == 0
    assert activations_to_average(make_graph("none", 4, 0), 0.1, kind) == 0
    assert activations_to_average(make_graph("line", 2, 0), 1e-9, kind) == 1
    assert activations_to_average(make_graph("ring", 5, 0), 1.0, kind) == 0
    for residual in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="residual must be above 0"):
            activations_to_average(make_graph("ring", 5, 0), residual, kind)
