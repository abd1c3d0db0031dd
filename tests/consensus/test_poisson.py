from __future__ import annotations

import pytest
from simulated_network import SHAPE, Agent, Faults, Network, complete, line, make_peers, ring, same

from matrpo.consensus.bus import run_in_process
from matrpo.consensus.message import LinkMessage

ACTIVATIONS = 30


def drive(peer, limit=1e6):
    """Let the clock alone run until the peer is done; returns the time and what it sent."""
    now, sent = 0.0, []
    while not peer.done:
        now = max(now, peer.next_event())
        assert now < limit
        peer.tick(now)
        sent += [message for _, message in peer.take_outbox()]
    return now, sent


@pytest.mark.parametrize("graph", [line(2), ring(5), complete(5)], ids=lambda g: g.name)
def test_every_link_gets_its_share(graph):
    share = -(-ACTIVATIONS // len(graph.links))
    peers = make_peers(graph, ACTIVATIONS, "poisson")
    for iteration in range(2):
        for peer in peers:
            peer.begin(iteration, Agent(peer.agent, iteration), SHAPE, 0.0)
        run_in_process(peers)
        for peer in peers:
            assert peer.counters.commits == (iteration + 1) * share * len(peer.links)
            assert all(end.k == share for end in peer.links.values())
    for e, (i, j) in enumerate(graph.links):
        assert same(peers[i].links[e].tip, peers[j].links[e].tip)


def test_in_process_runs_repeat():
    def tips():
        peers = make_peers(ring(4), ACTIVATIONS, "poisson")
        for peer in peers:
            peer.begin(0, Agent(peer.agent, 0), SHAPE, 0.0)
        run_in_process(peers)
        return [link.tip for peer in peers for link in peer.links.values()]

    assert all(same(a, b) for a, b in zip(tips(), tips(), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_busy_neighbours_are_retried_without_loss(seed):
    """Clocks much faster than the network: most activations meet a busy neighbour, and none is lost for good."""
    graph = complete(5)
    peers = make_peers(graph, 60, "poisson", mean_interval=0.002)
    network = Network(peers, graph, Faults(delay=0.01), seed)
    network.run(iterations=2)
    assert sum(message.kind == "busy" for message in network.sent) > 10
    for e, (i, j) in enumerate(graph.links):
        assert same(peers[i].links[e].tip, peers[j].links[e].tip)
        assert peers[i].links[e].tip.number >= 6
    assert network.now < 20.0


def test_a_neighbour_that_is_always_busy_holds_nobody_for_ever():
    peer = make_peers(line(2), 4, "poisson")[0]
    peer.begin(0, Agent(0, 0), SHAPE, 0.0)
    now = 0.0
    attempts = 0
    while not peer.done:
        now = max(now, peer.next_event())
        peer.tick(now)
        for _, message in peer.take_outbox():
            if message.kind == "ratios":
                attempts += 1
                peer.receive(LinkMessage("busy", 1, 0, 0, link=0, k=message.k), now)
    assert 100 < attempts < 200
    assert now < 1000.0


def test_a_neighbour_that_lives_but_opens_nothing_holds_nobody_for_ever():
    peer = make_peers(line(2), 4, "poisson")[1]
    peer.begin(0, Agent(1, 0), SHAPE, 0.0)
    now = 0.0
    while not peer.done:
        now += 1.0
        peer.receive(LinkMessage("beat", 0, 0, 0, link=0, k=0), now)
        peer.tick(now)
    assert now == pytest.approx(100.0)


def test_a_dead_neighbour_costs_each_end_one_deadline():
    for agent in (0, 1):
        peer = make_peers(line(2), 20, "poisson")[agent]
        peer.begin(0, Agent(agent, 0), SHAPE, 0.0)
        assert drive(peer)[0] < 1.2 * 10.0
        peer.begin(1, Agent(agent, 1), SHAPE, 100.0)
        assert drive(peer)[0] < 101.0


def test_an_end_that_gave_its_neighbour_up_tells_it_when_it_comes_back():
    graph = line(2)
    early, late = make_peers(graph, 5, "poisson")[::-1]
    early.begin(0, Agent(1, 0), SHAPE, 0.0)
    drive(early)
    late.begin(0, Agent(0, 0), SHAPE, 20.0)
    now = 20.0
    while not late.done:
        for _, message in late.take_outbox():
            early.receive(message, now)
        for _, message in early.take_outbox():
            late.receive(message, now)
        if not late.done:
            now = late.next_event()
            late.tick(now)
    assert now < 21.0
    assert early.links[0].tip.number == late.links[0].tip.number == 0
    for peer in (early, late):
        peer.begin(1, Agent(peer.agent, 1), SHAPE, 0.0)
    run_in_process([early, late])
    assert same(early.links[0].tip, late.links[0].tip)
    assert late.links[0].tip.number == 5
