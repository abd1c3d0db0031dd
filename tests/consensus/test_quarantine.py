"""A neighbour that sends what no honest one would is left alone until the next iteration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from matrpo.consensus.link import Link
from matrpo.consensus.link_types import Counters, LinkSettings, Outcome
from matrpo.consensus.message import LinkMessage

SHAPE = (3, 5)


class End:
    """One end of the only link."""

    def __init__(self, agent: int) -> None:
        settings = LinkSettings(agent, 0, 0.5, 50, np.dtype(np.float32), deadline=10.0, resend=2.0)
        self.outbox: list[tuple[int, LinkMessage]] = []
        self.counters = Counters()
        self.link = Link(0, 1 - agent, 1 - 2 * agent, settings, self.outbox, self.counters)
        self.link.begin(0, SHAPE, 0.0)

    def open(self, k: int) -> LinkMessage:
        assert self.link.approach(k)
        self.link.open(k, np.full(SHAPE, 0.25, np.float32), 0.0)
        return self.take()[0]

    def take(self) -> list[LinkMessage]:
        messages = [message for _, message in self.outbox]
        self.outbox.clear()
        return messages


def poisoned(message: LinkMessage, value: float) -> LinkMessage:
    assert message.u is not None
    u = message.u.copy()
    u[1, 2] = value
    return replace(message, u=u)


def test_a_neighbour_of_sound_mind_is_never_quarantined() -> None:
    a, b = End(0), End(1)
    for k in (1, 2, 3):
        ours, theirs = a.open(k), b.open(k)
        a.link.receive(theirs, 0.0)
        b.link.receive(ours, 0.0)
    assert not a.link.quarantined
    assert (a.counters.commits, a.counters.quarantines) == (3, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9])
def test_absurd_ratios_end_the_exchange_until_the_next_iteration(value: float) -> None:
    a, b = End(0), End(1)
    ours, theirs = a.open(1), b.open(1)
    a.link.receive(poisoned(theirs, value), 0.0)
    assert a.link.quarantined
    assert a.link.outcome is Outcome.GIVEN_UP
    assert a.link.tip.number == 0
    assert (a.counters.quarantines, a.counters.drops["payload"]) == (1, 1)
    (over,) = a.take()
    b.link.receive(over, 0.0)
    assert b.link.outcome is Outcome.GIVEN_UP, "the neighbour need not wait for its deadline"
    a.link.receive(theirs, 0.0)  # the honest message comes late: too late
    assert not a.link.is_open
    assert not a.link.approach(2)
    assert a.link.outcome is Outcome.SKIPPED
    a.link.receive(poisoned(theirs, value), 0.0)
    assert a.counters.quarantines == 1, "counted once an iteration"

    for end in (a, b):
        end.take()
        end.link.begin(1, SHAPE, 1.0)
    assert not a.link.quarantined
    ours, theirs = a.open(1), b.open(1)
    a.link.receive(theirs, 1.0)
    b.link.receive(ours, 1.0)
    assert a.link.tip.number == b.link.tip.number == 1


def test_absurd_ratios_of_another_iteration_are_only_dropped() -> None:
    a, b = End(0), End(1)
    b.link.begin(7, SHAPE, 0.0)
    a.link.receive(poisoned(b.open(1), np.nan), 0.0)
    assert not a.link.quarantined
    assert a.counters.drops["payload"] == 1


def test_ratios_of_the_wrong_shape_that_came_early_count_when_their_iteration_begins() -> None:
    a, b = End(0), End(1)
    b.link.begin(1, SHAPE, 0.0)
    message = b.open(1)
    assert message.u is not None
    a.link.receive(replace(message, u=message.u[:, :-1].copy()), 0.0)
    a.link.begin(1, SHAPE, 0.0)
    assert a.link.quarantined == (a.counters.quarantines == 1)
