"""The two ends of a link, between which a test carries the messages itself."""

from __future__ import annotations

import numpy as np

from matrpo.consensus.link import Link
from matrpo.consensus.link_types import Counters, LinkSettings, Outcome
from matrpo.consensus.message import LinkMessage

SHAPE = (3, 5)
BETA = 0.5
DEADLINE, RESEND = 10.0, 2.0


class End:
    """One end of the only link, with its outbox and counters."""

    def __init__(self, agent: int, *, incarnation: int = 0, dtype: str = "float32", last_k: int = 50) -> None:
        settings = LinkSettings(agent, incarnation, BETA, last_k, np.dtype(dtype), DEADLINE, RESEND)
        self.outbox: list[tuple[int, LinkMessage]] = []
        self.counters = Counters()
        self.link = Link(0, 1 - agent, 1 - 2 * agent, settings, self.outbox, self.counters)
        self.rng = np.random.default_rng(agent)
        self.agent = agent

    def begin(self, iteration: int = 0) -> None:
        self.link.begin(iteration, SHAPE, 0.0)

    def open(self, k: int, now: float = 0.0) -> LinkMessage:
        """Open k and return the message sent."""
        assert self.link.approach(k)
        self.link.open(k, self.rng.normal(size=SHAPE).astype(np.float32), now)
        return self.take()

    def take(self) -> LinkMessage:
        """The only message in the outbox."""
        ((_, message),) = self.outbox
        self.outbox.clear()
        return message

    def receive(self, message: LinkMessage, now: float = 0.0) -> None:
        self.link.receive(message, now)

    def give_up(self) -> None:
        self.link.tick(DEADLINE * 5)
        assert self.link.outcome is Outcome.GIVEN_UP
        assert self.take().kind == "over"

    def sign_of_life(self) -> LinkMessage:
        """A beat about no activation."""
        return LinkMessage("beat", self.agent, 0, 0, link=0, k=0)


def both_commit(a: End, b: End, k: int) -> tuple[LinkMessage, LinkMessage]:
    """Exchange both ends' ratios for k; returns them."""
    ours, theirs = a.open(k), b.open(k)
    a.receive(theirs)
    b.receive(ours)
    return ours, theirs
