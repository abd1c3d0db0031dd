"""Protocols that are wrong in one way each, for the simulator to catch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from matrpo.consensus import admm
from matrpo.consensus.link import Link
from matrpo.consensus.link_types import Outcome
from matrpo.consensus.message import LinkMessage
from matrpo.consensus.peer import Peer


class NoUndo(Link):
    """Commits onto its own latest state, whatever the neighbour has."""

    def _commit(self, own: LinkMessage, other: LinkMessage) -> None:
        super()._commit(own, replace(other, tip=own.tip, base=own.base))


class CommitCounts(Link):
    """Says how many commits made its states, in place of their numbers, and compares that."""

    def _reset(self, iteration: int, shape: tuple[int, int], now: float) -> None:
        super()._reset(iteration, shape, now)
        self._counts = {0: 0}

    def _send(self, message: LinkMessage) -> None:
        if message.iteration == self.iteration and message.u is not None:
            message = replace(message, tip=self._counts[message.tip], base=self._counts[message.base])
        super()._send(message)

    def _commit(self, own: LinkMessage, other: LinkMessage) -> None:
        numbers = {self._counts[number]: number for number in (own.base, own.tip)}
        tip, base = (numbers.get(count, -1) for count in (other.tip, other.base))
        before = {state.number: self._counts[state.number] for state in (self.base, self.tip)}
        super()._commit(own, replace(other, tip=tip, base=base))
        self._counts = before
        if self.outcome is Outcome.COMMITTED:
            self._counts[self.tip.number] = before[self.base.number] + 1


class NoIncarnation(Link):
    """Does not tell a neighbour that was restarted from the one before."""

    def receive(self, message: LinkMessage, now: float) -> None:
        self._incarnation = message.incarnation
        super().receive(message, now)


class AppliesTwice(Link):
    """Applies a repetition of the message that it committed last once more."""

    def _receive_ratios(self, message: LinkMessage) -> None:
        answer = self._answer
        if not self._open and answer and answer.position == message.position and self.tip.number == message.k:
            own_u, other_u = (u.astype(np.float32) for u in (answer.u, message.u))
            self.tip = admm.commit(self.tip, message.k, own_u, other_u, self.sign, self._settings.beta)
        super()._receive_ratios(message)


class IgnoresIteration(Link):
    """Takes every message for one of its own iteration."""

    def receive(self, message: LinkMessage, now: float) -> None:
        if type(message.iteration) is int and message.iteration >= 0 <= self.iteration:
            message = replace(message, iteration=self.iteration)
        super().receive(message, now)


class NoDeadline(Link):
    """Waits for ever."""

    @property
    def _deadline_at(self) -> float:
        return float("inf")


class NoBase(Link):
    """Commits only what both ends have as their latest state."""

    def _commit(self, own: LinkMessage, other: LinkMessage) -> None:
        super()._commit(replace(own, base=own.tip), replace(other, base=other.tip))


class Raises(Link):
    """Takes for granted that what it gets is a number."""

    def receive(self, message: LinkMessage, now: float) -> None:
        assert message.k + 1 > 0, "a corrupt k"
        super().receive(message, now)


class Hoarder(Link):
    """Never throws a message away."""

    def receive(self, message: LinkMessage, now: float) -> None:
        self.hoard = [*getattr(self, "hoard", []), message]
        super().receive(message, now)


class Grudge(Link):
    """Never listens again to a neighbour that was silent once."""

    def _hear(self, message: LinkMessage, now: float) -> None:
        silent = self.silent
        super()._hear(message, now)
        self.silent = silent


BROKEN = {
    "no undo": NoUndo,
    "commit counts": CommitCounts,
    "no incarnation": NoIncarnation,
    "apply twice": AppliesTwice,
    "ignore iteration": IgnoresIteration,
    "no deadline": NoDeadline,
}


class BrokenPeer(Peer):
    """An agent whose links are of another class."""

    def __init__(self, link_class: type[Link], *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for e, link in self.links.items():
            counters = self.link_counters[e]
            self.links[e] = link_class(e, link.neighbour, link.sign, self._settings, self._outbox, counters)


class Lopsided(Peer):
    """Averages as if it were the first end of all its links."""

    def term(self) -> np.ndarray:
        return admm.averaging_term([link.tip for link in self.links.values()], [1 for _ in self.links])
