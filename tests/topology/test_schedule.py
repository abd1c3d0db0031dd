from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrpo.topology import (
    CommunicationGraph,
    PoissonClock,
    link_colours,
    link_sequence,
    make_graph,
    matching_sequence,
    positions_of,
    seeded_sequence,
)
from matrpo.topology.schedule import FIXED_COLOURS

reproducible = settings(derandomize=True, deadline=None)

GOLDEN_MATCHINGS = {"ring": [3, 5, 0, 2, 1, 4, 0, 3, 5, 2, 1, 4], "complete": [14, 0, 9, 12, 11, 5, 2, 4, 7, 3, 8, 1]}
GOLDEN_SEQUENCE = [9, 6, 5, 5, 6, 6, 4, 3, 5, 11]
GOLDEN_WAITS = [0.890987045317871, 5.568464239364207, 0.6509398315708317]


@reproducible
@given(st.integers(1, 200), st.integers(0, 500), st.integers(0, 2**70), st.integers(0, 10**6))
def test_the_sequence_is_a_function_of_its_arguments(links: int, k: int, seed: int, iteration: int) -> None:
    sequence = seeded_sequence(links, k, seed, iteration)
    assert sequence.shape == (k,)
    assert sequence.dtype == np.int64
    assert ((sequence >= 0) & (sequence < links)).all()
    np.testing.assert_array_equal(sequence, seeded_sequence(links, k, seed, iteration))
    np.testing.assert_array_equal(sequence[: k // 2], seeded_sequence(links, k // 2, seed, iteration))


def test_the_sequence_stays_the_same_over_versions() -> None:
    assert seeded_sequence(12, 10, 0, 0).tolist() == GOLDEN_SEQUENCE
    for spec, links in GOLDEN_MATCHINGS.items():
        assert matching_sequence(make_graph(spec, 6, 0), 12, 0, 4).tolist() == links
    clock = PoissonClock(3, 0, 0, 1.0)
    assert [clock.next_wait() for _ in range(3)] == pytest.approx(GOLDEN_WAITS, rel=1e-12)


def test_links_are_uniform_and_iterations_independent() -> None:
    per_iteration = [seeded_sequence(12, 1000, 5, iteration) for iteration in range(60)]
    counts = np.bincount(np.concatenate(per_iteration), minlength=12)
    chi_squared = ((counts - 5000) ** 2 / 5000).sum()
    assert chi_squared < 31.3  # 99.9 % quantile at 11 degrees of freedom
    agreement = [np.mean(a == b) for a, b in itertools.combinations(per_iteration, 2)]
    assert np.mean(agreement) == pytest.approx(1 / 12, abs=0.001)
    assert max(agreement) < 0.13


def test_seeds_and_iterations_are_not_interchangeable() -> None:
    drawn = {tuple(seeded_sequence(12, 50, seed, it)) for seed in range(20) for it in range(20)}
    assert len(drawn) == 400


def test_no_links_give_no_activations() -> None:
    assert seeded_sequence(0, 100, 0, 0).shape == (0,)


@st.composite
def graphs(draw: st.DrawFn) -> CommunicationGraph:
    """Any graph, also one in parts or without links."""
    n = draw(st.integers(1, 9))
    pairs = list(itertools.combinations(range(n), 2))
    links = draw(st.sets(st.sampled_from(pairs))) if pairs else set()
    return CommunicationGraph.from_links(n, links, "any")


@reproducible
@given(graphs())
def test_links_with_a_common_agent_differ_in_colour(graph: CommunicationGraph) -> None:
    colours = link_colours(graph)
    degrees = [len(graph.links_of(agent)) for agent in range(graph.num_agents)]
    for agent in range(graph.num_agents):
        own = colours[list(graph.links_of(agent))]
        assert len(set(own)) == len(own)
    assert set(colours) == set(range(len(set(colours)))), "every number up to the largest is a colour"
    assert len(set(colours)) <= max(0, 2 * max(degrees) - 1)


@pytest.mark.parametrize(
    ("spec", "n", "count"),
    [("ring", 6, 2), ("ring", 12, 2), ("ring", 3, 3), ("ring", 7, 3), ("line", 9, 2), ("star", 9, 8), ("none", 4, 0)],
)
def test_rings_and_trees_have_as_few_colours_as_there_can_be(spec: str, n: int, count: int) -> None:
    graph = make_graph(spec, n, 0)
    renamed = np.random.default_rng(0).permutation(n).tolist()
    mixed = CommunicationGraph.from_links(n, [(renamed[i], renamed[j]) for i, j in graph.links], "renamed")
    for each in (graph, mixed):
        assert len(set(link_colours(each).tolist())) == count


@reproducible
@given(graphs(), st.integers(0, 60), st.integers(0, 2**70), st.integers(0, 10**6))
def test_matchings_activate_every_link_once_in_a_period(
    graph: CommunicationGraph, activations: int, seed: int, iteration: int
) -> None:
    sequence = matching_sequence(graph, activations, seed, iteration)
    size, colours = len(graph.links), link_colours(graph)
    assert sequence.dtype == np.int64
    assert sequence.shape == (activations if size else 0,)
    assert not sequence.flags.writeable
    np.testing.assert_array_equal(
        sequence[: activations // 2], matching_sequence(graph, activations // 2, seed, iteration)
    )
    for at in range(0, len(sequence), max(1, size)):
        period = sequence[at : at + size]
        assert len(set(period)) == len(period)
        if len(set(colours)) <= FIXED_COLOURS:
            np.testing.assert_array_equal(colours[period], colours[sequence[: len(period)]])
        for _, links in itertools.groupby(period, key=lambda e: colours[e]):
            ends = [agent for e in links for agent in graph.links[e]]
            assert len(set(ends)) == len(ends), "a round is a matching"
        assert sum(1 for _ in itertools.groupby(colours[period])) == len(set(colours[period])), "a colour is one round"


def test_iterations_and_seeds_begin_matchings_elsewhere() -> None:
    graph = make_graph("star", 5, 0)
    drawn = {tuple(matching_sequence(graph, 4, seed, it)) for seed in range(10) for it in range(10)}
    assert len(drawn) == 24, "all orders of 4 colours"
    ring = make_graph("ring", 12, 0)
    assert len({tuple(matching_sequence(ring, 24, seed, it)) for seed in range(10) for it in range(10)}) == 100


def test_one_link_is_activated_again_and_again() -> None:
    assert matching_sequence(make_graph("line", 2, 0), 4, 1, 2).tolist() == [0, 0, 0, 0]


def test_a_kind_of_sequence_has_its_name() -> None:
    graph = make_graph("ring", 6, 0)
    np.testing.assert_array_equal(link_sequence("seeded", graph, 30, 1, 2), seeded_sequence(6, 30, 1, 2))
    np.testing.assert_array_equal(link_sequence("matchings", graph, 30, 1, 2), matching_sequence(graph, 30, 1, 2))
    with pytest.raises(ValueError, match="'poisson' is no common sequence"):
        link_sequence("poisson", graph, 30, 1, 2)


@reproducible
@given(st.sampled_from(["ring", "complete", "erdos-renyi"]), st.integers(3, 12), st.integers(0, 200))
def test_positions_cover_each_activation_at_both_its_ends(spec: str, n: int, activations: int) -> None:
    graph = make_graph(spec, n, 0)
    sequence = seeded_sequence(len(graph.links), activations, 1, 2)
    seen: dict[int, list[int]] = {k: [] for k in range(1, activations + 1)}
    for agent in range(n):
        positions = positions_of(agent, graph, sequence)
        assert positions == sorted(positions)
        for k, link in positions:
            assert link == sequence[k - 1]
            seen[k].append(agent)
    assert all(tuple(ends) == graph.links[sequence[k - 1]] for k, ends in seen.items())


def test_both_ends_of_a_link_own_the_same_clock() -> None:
    one, other = PoissonClock(4, 1, 2, 0.5), PoissonClock(4, 1, 2, 0.5)
    assert [one.next_wait() for _ in range(20)] == [other.next_wait() for _ in range(20)]
    first = {PoissonClock(link, seed, it, 1.0).next_wait() for link in range(5) for seed in range(5) for it in range(5)}
    assert len(first) == 125


def test_waits_are_exponential() -> None:
    clock = PoissonClock(0, 0, 0, 2.0)
    waits = np.array([clock.next_wait() for _ in range(20_000)])
    assert waits.min() >= 0
    assert waits.mean() == pytest.approx(2.0, rel=0.03)
    assert waits.std() == pytest.approx(2.0, rel=0.03)
    assert np.mean(waits > 2.0) == pytest.approx(np.exp(-1), rel=0.03)


@pytest.mark.parametrize("mean", [0.0, -1.0, float("inf"), float("nan")])
def test_a_clock_refuses_an_impossible_mean(mean: float) -> None:
    with pytest.raises(ValueError, match="mean_interval"):
        PoissonClock(0, 0, 0, mean)
