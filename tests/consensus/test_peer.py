from __future__ import annotations

import numpy as np
import pytest
from marks import slow
from simulated_network import SHAPE, Agent, Faults, Network, complete, line, make_peers, ring, same, serial_run

from matrpo.consensus.bus import run_in_process
from matrpo.consensus.message import LinkMessage
from matrpo.topology.graph import CommunicationGraph

STAR = CommunicationGraph.from_links(5, [(0, 1), (0, 2), (0, 3), (0, 4)], "star")
TWO_PARTS = CommunicationGraph.from_links(6, [(0, 1), (1, 2), (0, 2), (3, 4)], "two parts and an agent alone")
GRAPHS = [line(2), ring(4), ring(6), complete(5), line(5)]
SEEDS = [*range(3), *map(slow, range(3, 8))]


def begin_all(peers, iteration=0):
    agents = [Agent(peer.agent, iteration) for peer in peers]
    for peer, agent in zip(peers, agents, strict=True):
        peer.begin(iteration, agent, SHAPE, 0.0)
    return agents


@pytest.mark.parametrize("schedule", ["seeded", "matchings"])
@pytest.mark.parametrize("graph", [*GRAPHS, STAR, TWO_PARTS], ids=lambda g: f"{g.name}{g.num_agents}")
def test_in_process_run_equals_algorithm_1(graph, schedule):
    peers = make_peers(graph, 40, schedule)
    for iteration in range(3):
        begin_all(peers, iteration)
        run_in_process(peers)
        expected = serial_run(graph, 40, iteration, schedule)
        for peer in peers:
            assert all(same(link.tip, expected[peer.agent][e]) for e, link in peer.links.items())
    for peer in peers:
        assert (peer.counters.give_ups, peer.counters.skips, peer.counters.resends) == (0, 0, 0)
        assert not any(peer.counters.drops.values())


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda g: f"{g.name}{g.num_agents}")
@pytest.mark.parametrize("seed", SEEDS)
def test_delays_reordering_and_repetition_change_nothing(graph, seed):
    peers = make_peers(graph, 30, deadline=1e6)
    network = Network(peers, graph, Faults(duplication=0.3, delay=3.0), seed)
    network.run(iterations=3)
    for iteration in range(3):
        expected = serial_run(graph, 30, iteration)
        for agent, states in enumerate(expected):
            assert all(same(network.results[iteration, agent][e], states[e]) for e in states)


def test_matchings_over_a_lossy_network_end_as_without_loss():
    for seed, graph in enumerate([ring(4), ring(6), STAR]):
        peers = make_peers(graph, 30, "matchings", deadline=1e6)
        network = Network(peers, graph, Faults(loss=0.2, duplication=0.3, delay=0.1), seed)
        network.run()
        expected = serial_run(graph, 30, 0, "matchings")
        for agent, states in enumerate(expected):
            assert all(same(network.results[0, agent][e], states[e]) for e in states)


def test_one_ratios_message_each_way_per_activation():
    graph = ring(5)
    peers = make_peers(graph, 50, resend=5.0)
    network = Network(peers, graph, Faults(until=0.0), seed=0)
    network.run()
    sent = [(m.sender, m.link, m.k) for m in network.sent if m.kind == "ratios"]
    assert len(sent) == len(set(sent)) == 2 * 50
    for peer in peers:
        assert peer.counters.commits == sum(sender == peer.agent for sender, _, _ in sent)


def test_residual_is_that_of_the_last_commits():
    graph = line(3)
    peers = make_peers(graph, 12)
    begin_all(peers)
    run_in_process(peers)
    network = Network(make_peers(graph, 12), graph, Faults(until=0.0), seed=0)
    network.run()
    last = {(message.link, message.sender): message.u for message in network.sent}
    gaps = [np.mean((last[e, i] - last[e, j]) ** 2) for e, (i, j) in enumerate(graph.links)]
    assert peers[1].residual() == pytest.approx(np.sqrt(np.mean(gaps)))
    assert peers[0].residual() == pytest.approx(np.sqrt(gaps[0]))


@pytest.mark.parametrize("schedule", ["seeded", "matchings", "poisson"])
def test_an_agent_without_links_takes_one_step_alone(schedule):
    (peer,) = make_peers(CommunicationGraph(1, (), "none"), 10, schedule)
    pulls = []

    def step(pull):
        pulls.append(pull)
        return pull

    peer.begin(0, step, SHAPE, 0.0)
    run_in_process([peer])
    assert peer.done
    assert len(pulls) == 1
    assert pulls[0].shape == SHAPE
    assert not pulls[0].any()
    assert peer.residual() == 0.0
    assert peer.next_event() is None


@pytest.mark.parametrize("schedule", ["seeded", "matchings", "poisson"])
def test_a_dead_agent_costs_its_neighbours_one_deadline(schedule):
    """I4, also in the iterations after: only the first activation with it is waited for."""
    graph = ring(4)
    peers = make_peers(graph, 40, schedule)
    network = Network(peers, graph, Faults(until=0.0), seed=1)
    network.dead.add(2)
    network.run()
    assert network.now < 2 * 10.0 + 3.0
    first = network.now
    network.run(iterations=2, first=1)
    assert network.now - first < 10.0
    for q in (1, 3):
        assert all(link.silent == (link.neighbour == 2) for link in peers[q].links.values())
    link = graph.links.index((0, 1))
    assert same(peers[0].links[link].tip, peers[1].links[link].tip)
    assert peers[0].links[link].tip.number > 0


def test_an_agent_whose_neighbours_are_all_silent_still_takes_a_step():
    peer = make_peers(line(2), 6)[0]
    for iteration, expected in ((0, 1), (1, 1)):
        agent = Agent(0, iteration)
        peer.begin(iteration, agent, SHAPE, 100.0 * iteration)
        while not peer.done:
            peer.tick(peer.next_event())
        assert agent.steps == expected
        assert peer.take_outbox()[-1][1].kind == "over"


def test_strangers_are_dropped():
    peers = make_peers(ring(4), 10)
    begin_all(peers)
    before = peers[0].take_outbox()
    for message in (
        LinkMessage("beat", 2, 0, 0, link=1, k=1),
        LinkMessage("beat", 2, 0, 0, link=0, k=1),
        LinkMessage("beat", 1, 0, 0, link=99, k=1),
        LinkMessage("beat", 1, 0, 0, link=[0], k=1),
    ):
        peers[0].receive(message, 0.0)
    assert before
    assert peers[0].counters.drops["address"] == 4
    assert not peers[0].take_outbox()


def test_messages_before_the_first_iteration_are_used_in_it():
    early, late = make_peers(line(2), 1)
    early.begin(0, Agent(0, 0), SHAPE, 0.0)
    ((_, message),) = early.take_outbox()
    late.receive(message, 0.0)
    late.begin(0, Agent(1, 0), SHAPE, 0.5)
    assert late.done
    ((_, reply),) = late.take_outbox()
    early.receive(reply, 0.6)
    assert early.done
    assert same(early.links[0].tip, late.links[0].tip)


@pytest.mark.parametrize("wire_dtype", ["float16", "float32"])
def test_both_ends_apply_what_was_on_the_wire(wire_dtype):
    graph = ring(3)
    peers = make_peers(graph, 30, wire_dtype=wire_dtype)
    network = Network(peers, graph, Faults(until=0.0), seed=0)
    network.run()
    assert {m.u.dtype for m in network.sent if m.kind == "ratios"} == {np.dtype(wire_dtype)}
    for e, (i, j) in enumerate(graph.links):
        assert same(peers[i].links[e].tip, peers[j].links[e].tip)


@pytest.mark.parametrize("bad", [np.full(SHAPE, np.nan, np.float32), np.zeros((2, 2), np.float32)])
def test_a_step_that_gives_nonsense_is_an_error(bad):
    peer = make_peers(line(2), 3)[0]
    with pytest.raises(ValueError, match="log ratios must be finite"):
        peer.begin(0, lambda _: bad, SHAPE, 0.0)


def test_the_bus_says_when_a_peer_has_not_begun():
    with pytest.raises(RuntimeError, match="stands still"):
        run_in_process(make_peers(line(2), 3))
