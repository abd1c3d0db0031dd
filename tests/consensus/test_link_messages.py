"""Which messages a link takes in: early, late, wrong, of another life of the neighbour, rounded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulated_network import same
from two_ends import SHAPE, End, both_commit

from matrpo.consensus.link_types import Outcome


def test_one_later_message_is_kept_the_latest_to_arrive(ends):
    a, b = ends
    first = a.open(1)
    a.receive(b.sign_of_life())
    a.give_up()
    second = a.open(2, now=60.0)
    for message in (first, second, first, second):
        b.receive(message)
    assert b.link.pending == 2
    assert not b.link.approach(1)
    b.take()
    b.open(2)
    assert b.link.tip.number == 2


def test_an_early_message_survives_begin_and_older_ones_do_not(ends):
    a, b = ends
    a.begin(1)
    early = a.open(1)
    b.receive(early)
    assert b.link.neighbour_done
    assert not b.link.approach(1), "the neighbour is in the next iteration"
    b.begin(1)
    b.outbox.clear()
    b.open(1)
    assert b.link.tip.number == 1
    b.begin(2)
    b.receive(early)
    assert b.link.tip.number == 0
    b.begin(3)
    c = End(1)
    c.receive(early)
    c.begin(2)
    assert c.link.pending is None
    assert c.counters.drops["late"] == 1


def test_an_early_message_of_another_shape_is_dropped_when_the_shape_is_known():
    a, b = End(0), End(1)
    a.begin()
    early = a.open(1)
    b.receive(replace(early, u=np.zeros((9, 9), np.float32)))
    assert b.counters.drops["payload"] == 0
    b.begin()
    assert b.counters.drops["payload"] == 1
    assert b.link.pending is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "vote"}, "header"),
        ({"k": 0}, "header"),
        ({"k": 51}, "header"),
        ({"k": 1.0}, "header"),
        ({"k": True}, "header"),
        ({"iteration": -1}, "header"),
        ({"iteration": 2**70}, "header"),
        ({"tip": 3, "base": 3}, "header"),
        ({"tip": 1, "base": 2}, "header"),
        ({"base": -1}, "header"),
        ({"answered": 1}, "header"),
        ({"sender": 2}, "address"),
        ({"link": 1}, "address"),
        ({"u": None}, "payload"),
        ({"u": np.zeros(SHAPE, np.float64)}, "payload"),
        ({"u": np.zeros(SHAPE, np.float32).astype(">f4")}, "payload"),
        ({"u": np.zeros((5, 3), np.float32)}, "payload"),
        ({"u": np.zeros(15, np.float32)}, "payload"),
        ({"u": np.full(SHAPE, np.nan, np.float32)}, "payload"),
        ({"u": np.full(SHAPE, -np.inf, np.float32)}, "payload"),
        ({"u": np.full(SHAPE, 1e30, np.float32)}, "payload"),
        ({"u": [[0.0] * 5] * 3}, "payload"),
        ({"kind": "beat"}, "payload"),
    ],
)
def test_what_is_not_valid_is_dropped_and_counted(ends, change, reason):
    a, b = ends
    b.open(3)
    b.receive(replace(a.open(3), **change))
    assert b.counters.drops[reason] == 1
    assert b.link.quarantined == (reason == "payload")
    assert b.link.is_open == (reason != "payload")
    if b.link.is_open:
        b.give_up()
        assert b.link.silent, "an invalid message is no sign of life"


def test_states_that_do_not_match_end_the_activation(ends):
    a, b = ends
    both_commit(a, b, 1)
    both_commit(a, b, 2)
    b.open(3)
    b.receive(replace(a.open(3), tip=0, base=0))
    assert b.link.outcome is Outcome.GIVEN_UP
    assert b.counters.drops["no common state"] == 1
    assert b.link.tip.number == 2


def test_an_older_incarnations_messages_are_dropped(ends):
    a, b = ends
    old = a.open(1)
    new = End(0, incarnation=1)
    new.begin()
    b.receive(old)
    b.receive(new.open(1))
    b.receive(old)
    assert b.counters.drops["incarnation"] == 1
    theirs = b.open(1)
    new.receive(theirs)
    assert same(b.link.tip, new.link.tip)


def test_a_neighbour_that_restarts_after_a_commit_takes_part_again_in_the_next_iteration(ends):
    a, b = ends
    both_commit(a, b, 1)
    b.open(2)
    new = End(0, incarnation=4)
    new.begin()
    b.receive(new.open(2))
    assert b.link.outcome is Outcome.GIVEN_UP
    assert [message.kind for _, message in b.outbox] == ["over", "over"]
    new.receive(b.outbox.pop()[1])
    b.outbox.clear()
    assert new.link.outcome is Outcome.GIVEN_UP
    assert not b.link.approach(3)
    new.begin(1)
    b.begin(1)
    b.outbox.clear()
    both_commit(new, b, 1)
    assert same(b.link.tip, new.link.tip)


def test_float16_is_applied_as_rounded():
    a, b = End(0, dtype="float16"), End(1, dtype="float16")
    a.begin()
    b.begin()
    ours, theirs = both_commit(a, b, 1)
    assert ours.u.dtype == theirs.u.dtype == np.float16
    expected = (ours.u.astype(np.float32) + theirs.u.astype(np.float32)) / 2
    assert np.array_equal(a.link.tip.ubar, expected)
    assert same(a.link.tip, b.link.tip)
    assert a.link.tip.y.dtype == np.float32


def test_huge_ratios_are_clipped_and_sent_ratios_cannot_change(ends):
    a, _ = ends
    u = np.full(SHAPE, 1e30, np.float32)
    a.link.approach(1)
    a.link.open(1, u, 0.0)
    sent = a.take().u
    assert sent.max() == np.finfo(np.float16).max
    u[:] = 0.0
    assert sent.min() > 0.0
    with pytest.raises(ValueError, match="read-only"):
        sent[0, 0] = 1.0
