"""Seeded histories over a network with faults: the invariants after every event, and liveness once the faults stop."""

from __future__ import annotations

import numpy as np
import pytest
from marks import slow
from simulated_network import Faults, Network, complete, line, make_peers, ring, same, serial_run

ACTIVATIONS = 12
GRAPHS = [line(2), line(3), ring(3), ring(4), complete(4)]
BATCHES = [*range(2), *map(slow, range(2, 10))]


def faulty_network(seed, schedule="seeded"):
    rng = np.random.default_rng(seed)
    graph = GRAPHS[rng.integers(len(GRAPHS))]
    faults = Faults(
        loss=rng.uniform(0, 0.6),
        duplication=rng.uniform(0, 0.4),
        corruption=rng.choice([0.0, 0.1]),
        delay=rng.choice([0.01, 0.5, 4.0]),
        until=rng.choice([30.0, 100.0, np.inf]),
    )
    for i, j in graph.links:
        for direction in ((i, j), (j, i)):
            if rng.random() < 0.1:
                faults.cut.add(direction)
    return Network(make_peers(graph, ACTIVATIONS, schedule), graph, faults, seed)


def stop_faults(network):
    network.faults.until = network.now


def run_in_step(network, iterations):
    """Iterations that all agents begin together, as the environment makes them."""
    for iteration in iterations:
        network.run(first=iteration)


@pytest.mark.parametrize("batch", BATCHES)
def test_seeded_histories(batch):
    """Once the faults stop, silent neighbours hear each other in two iterations; the next is as without any fault."""
    for seed in range(40 * batch, 40 * (batch + 1)):
        network = faulty_network(seed)
        network.run(iterations=2)
        stop_faults(network)
        run_in_step(network, [2, 3, 4])
        expected = serial_run(network.graph, ACTIVATIONS, 4)
        for agent, states in enumerate(expected):
            for e, state in states.items():
                assert same(network.results[4, agent][e], state), f"seed {seed}"


@pytest.mark.parametrize("batch", BATCHES)
def test_poisson_histories(batch):
    for seed in range(20 * batch, 20 * (batch + 1)):
        network = faulty_network(seed, "poisson")
        network.run(iterations=2)
        stop_faults(network)
        run_in_step(network, [2, 3])
        commits = [peer.counters.commits for peer in network.peers]
        run_in_step(network, [4])
        share = -(-ACTIVATIONS // len(network.graph.links))
        for peer, before in zip(network.peers, commits, strict=True):
            assert peer.counters.commits - before == share * len(peer.links), f"seed {seed}"
        for e, (i, j) in enumerate(network.graph.links):
            assert same(network.peers[i].links[e].tip, network.peers[j].links[e].tip), f"seed {seed}"


@pytest.mark.parametrize("seed", range(40))
def test_a_restarted_agent_joins_at_the_next_iteration(seed):
    """Messages of and to its older incarnation are still on the way."""
    network = faulty_network(seed)
    network.run(iterations=2)
    agent = int(network.rng.integers(len(network.peers)))
    reborn = make_peers(network.graph, ACTIVATIONS, incarnation=1)[agent]
    network.peers[agent] = reborn
    network.run(iterations=1, first=2)
    stop_faults(network)
    run_in_step(network, [3, 4, 5])
    expected = serial_run(network.graph, ACTIVATIONS, 5)
    for q, states in enumerate(expected):
        assert all(same(network.results[5, q][e], states[e]) for e in states)


def test_a_cut_link_leaves_the_others_working():
    """I4: agents 0 and 1 cannot hear each other; they lose one deadline, and every other link loses nothing more."""
    graph = ring(4)
    peers = make_peers(graph, 60)
    network = Network(peers, graph, Faults(cut={(0, 1), (1, 0)}), seed=0)
    network.run()
    assert network.now < 1.5 * 10.0
    for e, (i, j) in enumerate(graph.links):
        if (i, j) != (0, 1):
            assert same(peers[i].links[e].tip, peers[j].links[e].tip)
            assert peers[i].links[e].tip.number > 40


def test_a_neighbour_that_is_heard_but_does_not_hear_costs_one_deadline():
    graph = line(2)
    peers = make_peers(graph, 30)
    network = Network(peers, graph, Faults(cut={(0, 1)}), seed=0)
    network.run()
    assert network.now < 1.5 * 10.0
    network.faults.cut.clear()
    network.run(iterations=2, first=1)
    assert same(peers[0].links[0].tip, peers[1].links[0].tip)
    assert peers[0].links[0].tip.number == 30


def test_most_histories_have_faults():
    """The histories above do exercise losses, give-ups, skips and undone commits."""
    totals = {"give_ups": 0, "skips": 0, "resends": 0, "undone": 0}
    for seed in range(40):
        network = faulty_network(seed)
        network.run(iterations=2)
        for peer in network.peers:
            for name in ("give_ups", "skips", "resends"):
                totals[name] += getattr(peer.counters, name)
        undone = [m for m in network.sent if m.kind == "ratios" and m.base < m.tip < m.k - 1]
        totals["undone"] += len(undone)
    assert all(count > 20 for count in totals.values()), totals
