"""Averaging over a graph's links: the relaxation that mixes fastest, and how many activations are enough."""

from __future__ import annotations

import numpy as np
import pytest

from matrpo.topology import CommunicationGraph, TopologyError, link_sequence, make_graph
from matrpo.topology.gossip import activations_to_average, relaxation

GRAPHS = [("line", 2), ("ring", 3), ("ring", 5), ("ring", 12), ("ring", 25), ("line", 7), ("star", 9), ("complete", 6)]


def left_after(graph: CommunicationGraph, kind: str, activations: int, beta: float, seed: int) -> float:
    """Root mean square deviation from the mean, of independent values, relative to what it was."""
    start = deviations = np.eye(graph.num_agents) - 1.0 / graph.num_agents
    for link in link_sequence(kind, graph, activations, seed, 1):
        i, j = graph.links[link]
        difference = np.zeros(graph.num_agents)
        difference[[i, j]] = 1.0, -1.0
        deviations = deviations - (beta / 2) * np.outer(difference, difference @ deviations)
    np.testing.assert_allclose(deviations.sum(0), 0.0, atol=1e-12)
    return float(np.linalg.norm(deviations) / np.linalg.norm(start))


@pytest.mark.parametrize(("spec", "n"), GRAPHS)
def test_that_many_activations_leave_the_residual_and_fewer_rounds_do_not(spec: str, n: int) -> None:
    graph = make_graph(spec, n, 0)
    beta = relaxation(graph, "matchings")
    activations = activations_to_average(graph, 0.01, "matchings", beta)
    left = [left_after(graph, "matchings", activations, beta, seed) for seed in range(5)]
    assert np.median(left) <= 0.03
    if activations > len(graph.links):
        assert left_after(graph, "matchings", activations - len(graph.links), beta, 0) > 0.01


@pytest.mark.parametrize(("spec", "n"), GRAPHS)
def test_random_links_leave_at_most_the_residual(spec: str, n: int) -> None:
    graph = make_graph(spec, n, 0)
    activations = activations_to_average(graph, 0.01, "seeded")
    squares = [left_after(graph, "seeded", activations, 1.0, seed) ** 2 for seed in range(20)]
    assert np.mean(squares) <= 2 * 0.01**2


@pytest.mark.parametrize("n", [6, 8, 12, 24])
def test_the_relaxation_of_two_matchings_is_about_the_best(n: int) -> None:
    graph = make_graph("ring", n, 0)
    beta = relaxation(graph, "matchings")
    best = min(activations_to_average(graph, 0.01, "matchings", other) for other in np.arange(1.0, 2.0, 0.05))
    assert activations_to_average(graph, 0.01, "matchings", beta) <= best + n


def test_over_relaxed_matchings_beat_plain_ones_and_these_random_links() -> None:
    for n, ratio in ((12, 2), (24, 4)):
        graph = make_graph("ring", n, 0)
        relaxed = activations_to_average(graph, 0.01, "matchings", relaxation(graph, "matchings"))
        plain = activations_to_average(graph, 0.01, "matchings")
        assert ratio * relaxed < plain < activations_to_average(graph, 0.01, "seeded")


@pytest.mark.parametrize(
    ("spec", "n", "kind"), [("line", 2, "matchings"), ("star", 12, "matchings"), ("ring", 12, "seeded")]
)
def test_where_over_relaxation_gains_nothing_it_is_the_mean(spec: str, n: int, kind: str) -> None:
    assert relaxation(make_graph(spec, n, 0), kind) == 1.0


def test_without_links_or_differences_there_is_nothing_to_do() -> None:
    assert activations_to_average(make_graph("none", 3, 0), 0.01, "matchings") == 0
    assert activations_to_average(make_graph("ring", 3, 0), 1.0, "matchings") == 0
    assert activations_to_average(make_graph("line", 2, 0), 0.01, "seeded") == 1
    assert relaxation(make_graph("none", 3, 0), "matchings") == 1.0


def test_what_cannot_be_is_refused() -> None:
    ring, parts = make_graph("ring", 4, 0), CommunicationGraph.from_links(4, [(0, 1), (2, 3)], "parts")
    for residual, beta in ((0.0, 1.0), (0.1, 2.0), (0.1, 0.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="residual must be above 0 and beta between 0 and 2"):
            activations_to_average(ring, residual, "matchings", beta)
    with pytest.raises(TopologyError, match="ring of 4 agents, by the schedule matchings and with beta 1e-09"):
        activations_to_average(ring, 0.1, "matchings", 1e-9)
    with pytest.raises(TopologyError, match="1000 activations of each link or more"):
        activations_to_average(make_graph("line", 200, 0), 0.01, "seeded")
    with pytest.raises(ValueError, match="no common mean"):
        activations_to_average(parts, 0.1, "matchings")
