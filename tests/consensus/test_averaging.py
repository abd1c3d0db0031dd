"""Consensus by averaging: what a team's peers end with is the mean of what they brought, as far as links allow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from simulated_network import SHAPE, Faults, Network, complete, line, make_peers, ring

from matrpo.consensus import admm
from matrpo.consensus.bus import run_in_process
from matrpo.consensus.peer import Peer
from matrpo.topology.gossip import activations_to_average, relaxation
from matrpo.topology.graph import CommunicationGraph

RESIDUAL = 0.01


class Share:
    """What an agent brings to the average, and what it was last told."""

    def __init__(self, agent: int, iteration: int) -> None:
        self.brought = np.random.default_rng([agent, iteration]).normal(size=SHAPE).astype(np.float32)
        self.last = self.brought

    def __call__(self, term: np.ndarray) -> np.ndarray:
        self.last = self.brought + term
        return self.last


class Team:
    """The shares of all agents, by iteration."""

    def __init__(self) -> None:
        self.shares: dict[tuple[int, int], Share] = {}

    def __call__(self, agent: int, iteration: int) -> Share:
        return self.shares.setdefault((iteration, agent), Share(agent, iteration))

    def of(self, iteration: int) -> tuple[np.ndarray, np.ndarray]:
        """What all agents brought, and what they ended with: (agents, N, M) each."""
        shares = [share for (i, _), share in sorted(self.shares.items()) if i == iteration]
        return np.stack([share.brought for share in shares]), np.stack([share.last for share in shares])


def deviation(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values - values.mean(0)).mean()))


def averaged(graph: CommunicationGraph, **changes: Any) -> tuple[np.ndarray, np.ndarray, list[Peer]]:
    """An iteration in one process with the default number of activations."""
    schedule = changes.setdefault("schedule", "matchings")
    beta = relaxation(graph, schedule)
    activations = activations_to_average(graph, RESIDUAL, schedule, beta)
    peers, team = make_peers(graph, activations, consensus="averaging", beta=beta, **changes), Team()
    for peer in peers:
        peer.begin(1, team(peer.agent, 1), SHAPE, 0.0)
    run_in_process(peers)
    return *team.of(1), peers


@pytest.mark.parametrize(
    "graph", [ring(3), ring(5), ring(12), line(4), complete(6)], ids=lambda g: g.name + str(g.num_agents)
)
def test_agents_end_within_the_residual_of_the_mean_of_what_they_brought(graph):
    brought, ended, peers = averaged(graph)
    np.testing.assert_allclose(ended.mean(0), brought.mean(0), atol=1e-6)
    assert deviation(ended) <= RESIDUAL * 5 * deviation(brought)
    assert all(peer.residual() < deviation(brought) for peer in peers)


def test_over_relaxation_takes_a_ring_of_twelve_there_in_half_the_activations():
    graph = ring(12)
    assert 2 * activations_to_average(graph, RESIDUAL, "matchings", relaxation(graph, "matchings")) < (
        activations_to_average(graph, RESIDUAL, "matchings")
    )


def test_one_activation_takes_the_mean_of_two():
    brought, ended, _ = averaged(line(2))
    np.testing.assert_allclose(ended, np.broadcast_to(brought.mean(0), ended.shape), atol=1e-7)


@pytest.mark.parametrize("schedule", ["seeded", "poisson"])
def test_random_links_average_too(schedule):
    brought, ended, _ = averaged(ring(5), schedule=schedule)
    np.testing.assert_allclose(ended.mean(0), brought.mean(0), atol=1e-6)
    assert deviation(ended) < 0.1 * deviation(brought)


def test_half_precision_keeps_the_sum_and_rounds_what_was_sent():
    brought, ended, _ = averaged(ring(5), wire_dtype="float16")
    np.testing.assert_allclose(ended.mean(0), brought.mean(0), atol=1e-6)
    assert deviation(ended) <= RESIDUAL * 5 * deviation(brought)


def test_an_agent_without_links_keeps_what_it_brought():
    brought, ended, _ = averaged(CommunicationGraph.from_links(3, [], "none"))
    np.testing.assert_array_equal(ended, brought)


@pytest.mark.parametrize("schedule", ["matchings", "seeded"])
def test_losses_leave_no_trace_in_the_result(schedule):
    results = []
    for faults in (Faults(), Faults(loss=0.2, duplication=0.1, delay=0.05)):
        team = Team()
        peers = make_peers(ring(5), 40, schedule, consensus="averaging", deadline=1e6)
        Network(peers, ring(5), faults, seed=1, make_step=team).run(iterations=2)
        results.append(np.stack([team.of(0)[1], team.of(1)[1]]))
    np.testing.assert_array_equal(*results)


def test_links_that_are_cut_in_the_middle_change_no_sum():
    """Activations are given up; the sum is kept where the ends of all links are in the same state when it is over."""
    compared = 0
    for seed in range(8):
        team = Team()
        peers = make_peers(ring(5), 60, "matchings", consensus="averaging", deadline=1.0, resend=0.2)
        faults = Faults(loss=0.3, until=4.0, cut={(0, 1), (3, 2)})
        Network(peers, ring(5), faults, seed=seed, make_step=team).run(iterations=4)
        assert sum(peer.counters.give_ups + peer.counters.skips for peer in peers) > 0
        ends = [(link, peers[link.neighbour].links[e]) for peer in peers for e, link in peer.links.items()]
        if all(own.tip.number == other.tip.number for own, other in ends):
            brought, ended = team.of(3)
            np.testing.assert_allclose(ended.mean(0), brought.mean(0), atol=1e-6)
            compared += 1
    assert compared


def test_the_dual_update_with_penalty_one_takes_the_mean_of_both_ends():
    own, other = np.random.default_rng(0).normal(size=(2, *SHAPE))
    state = admm.commit(admm.initial_state(SHAPE, np.float64), 1, own, other, +1, beta=1.0)
    for brought, sign in ((own, +1), (other, -1)):
        np.testing.assert_allclose(brought + admm.averaging_term([state], [sign]), (own + other) / 2, atol=1e-15)
