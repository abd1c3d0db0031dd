"""How long an end of a link may wait for what the other end has left: the time of a round trip, or until it is asked.

An end that gives an activation up says so, and an end that hears of a later activation asks for the open one: either
takes one round trip. What the other end committed, or said in vain, is asked for at the latest after the largest
interval between two questions. A message that was lost, or an end that was away, begins the wait anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from matrpo.consensus.link import Link
from matrpo.consensus.message import LinkMessage
from matrpo.simulation.violation import Violation

_SLACK = 1e-6


@dataclass
class _Wait:
    """The wait of one end in an open activation.

    Attributes:
        position: what is open.
        since: the time at which the other end left it, or the waiting one heard of a later one.
        is_known: the other end gave it up, and said so, or the waiting one heard of a later one.
    """

    position: tuple[int, int]
    since: float
    is_known: bool


class Promptness:
    """Checker of the time that ends stay open after the other end has left.

    Args:
        round_trip: the longest time, in seconds, of a message and its answer without faults.
        question: the longest time between two questions.
    """

    def __init__(self, round_trip: float, question: float) -> None:
        self._round_trip = round_trip
        self._question = question
        self._waits: dict[tuple[int, int], _Wait] = {}
        """By agent and link."""
        self._told: dict[tuple[int, int], tuple[int, int]] = {}
        """The latest activation of which an end heard by the other's ratios."""
        self._disturbed: dict[int, float] = {}
        """By link: the time of the last lost message, or of an end's return."""

    def disturb(self, link: int, until: float) -> None:
        """Note that something of a link's exchange is lost, late or asleep until a time."""
        self._disturbed[link] = max(until, self._disturbed.get(link, until))

    def heard(self, agent: int, message: LinkMessage) -> None:
        """Note the activation of ratios that reach an agent."""
        if message.kind == "ratios":
            end = (agent, message.link)
            self._told[end] = max(message.position, self._told.get(end, message.position))

    def check(self, agent: int, link: Link, now: float) -> None:
        """Check that an end does not wait in vain, just before its next event.

        Raises:
            Violation: it waits too long.
        """
        wait = self._waits.get((agent, link.number))
        if wait is None:
            return
        disturbed = self._disturbed.get(link.number, -1.0)
        at_once = wait.is_known and disturbed < wait.since
        limit = self._round_trip if at_once else self._question + 2 * self._round_trip
        if now > max(wait.since, disturbed) + limit + _SLACK:
            seconds = now - max(wait.since, disturbed)
            text = f"agent {agent}, link {link.number}: {wait.position} is still open, {seconds:.2f} s after the other"
            raise Violation("prompt", f"{text} end has left it")

    def update(self, agent: int, own: Link, other: Link, committed: bool, now: float) -> None:
        """Note whether an end waits in vain, after an event of either.

        Args:
            agent: whose end it is.
            own: the end.
            other: the other end.
            committed: whether the other end has committed what is open.
            now: the true time.
        """
        key, position, theirs = (agent, own.number), (own.iteration, own.k), (other.iteration, other.k)
        if not own.is_open or theirs < position or (theirs == position and other.is_open):
            self._waits.pop(key, None)
            return
        told = self._told.get(key, (-1, 0)) > position
        wait = self._waits.get(key)
        if wait is None or wait.position != position:
            self._waits[key] = _Wait(position, now, told or (theirs == position and not committed))
        elif told and not wait.is_known:
            self._waits[key] = _Wait(position, now, True)
