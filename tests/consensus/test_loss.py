"""Connections that are lost, and iterations that an agent takes no part in."""

from __future__ import annotations

import numpy as np
from simulated_network import SHAPE, Agent, line, make_peers

from matrpo.consensus.bus import run_in_process
from matrpo.consensus.peer import Peer

FOREVER = 1e9


def pair(activations: int = 4, schedule: str = "seeded") -> list[Peer]:
    return make_peers(line(2), activations, deadline=FOREVER, resend=FOREVER, schedule=schedule)


def begin(peer: Peer, iteration: int) -> None:
    peer.begin(iteration, Agent(peer.agent, iteration), SHAPE, 0.0)


def test_a_lost_neighbour_costs_one_activation_and_no_time() -> None:
    peer, _ = pair()
    begin(peer, 1)
    assert not peer.done
    peer.lose(1, 0.0)
    assert peer.done
    assert (peer.counters.commits, peer.counters.give_ups, peer.counters.skips) == (0, 1, 3)


def test_losing_somebody_else_changes_nothing() -> None:
    peer, _ = pair()
    begin(peer, 1)
    peer.take_outbox()
    peer.lose(7, 0.0)
    assert not peer.done
    assert peer.take_outbox() == []


def test_a_lost_neighbour_that_is_heard_again_takes_part_again() -> None:
    peers = pair()
    for peer in peers:
        begin(peer, 1)
    for peer in peers:
        peer.lose(1 - peer.agent, 0.0)
    assert all(peer.done for peer in peers)
    for peer in peers:
        for _, message in peer.take_outbox():
            peers[1 - peer.agent].receive(message, 0.0)
    for peer in peers:
        begin(peer, 2)
    run_in_process(peers)
    assert [peer.counters.commits for peer in peers] == [4, 4]


def test_nobody_waits_for_an_agent_that_sits_out() -> None:
    for early in (True, False):
        a, b = pair()
        if early:
            b.sit_out(1, 0.0)
        begin(a, 1)
        if not early:
            for _, message in a.take_outbox():
                b.receive(message, 0.0)
            b.sit_out(1, 0.0)
        run_in_process([a, b])
        assert a.done
        assert (a.counters.commits, b.counters.commits) == (0, 0)
        for peer in (a, b):
            begin(peer, 2)
        run_in_process([a, b])
        assert [peer.counters.commits for peer in (a, b)] == [4, 4]


def test_who_asks_later_is_told_that_the_iteration_goes_without_it() -> None:
    a, b = pair()
    b.sit_out(1, 0.0)
    b.take_outbox()  # lost on the way
    begin(a, 1)
    run_in_process([a, b])
    assert a.done


def test_a_message_for_the_next_iteration_survives_sitting_out() -> None:
    a, b = pair()
    begin(a, 2)
    for _, message in a.take_outbox():
        b.receive(message, 0.0)
    b.sit_out(1, 0.0)
    begin(b, 2)
    run_in_process([a, b])
    assert [peer.counters.commits for peer in (a, b)] == [4, 4]


def test_nobody_waits_in_any_schedule() -> None:
    for schedule in ("seeded", "matchings", "poisson"):
        a, b = pair(schedule=schedule)
        b.sit_out(1, 0.0)
        begin(a, 1)
        run_in_process([a, b])
        assert a.done
        assert not np.any([link.tip.number for link in a.links.values()])
