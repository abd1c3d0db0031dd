"""How long an end of a link may wait for what the other end has left: the time of a round trip, or until it is asked.

An end that gives an activation up says so, and an end that hears of a later activation asks for the open one: either
takes one round trip. What the other end committed, or said in vain, is asked for at the latest after the largest
interval between two questions. A message that was lost, or an end that was away, begins the wait anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from matrpo.consensus.link import Link
from matrpo.consensus.message import LinkMessage
from matrpo.simulation.outcome import Violation

_SLACK = 1e-6


@dataclass
class _Wait:
    """The wait of one end in an open activation.

    Attributes:
        agent: whose end it is.
        position: what is open.
        since: the time at which the other end left it, or the waiting one heard of a later one.
        is_known: the other end gave it up, and said so, or the waiting one heard of a later one.
    """

    agent: int
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
        self._waits: dict[int, _Wait] = {}
        """By link, of which one end at most waits in vain."""
        self._told: dict[tuple[int, int], tuple[int, int]] = {}
        """By agent and link: the latest activation of which the end heard by the other's ratios."""
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

    def waits_of(self, agent: int) -> list[int]:
        """The links of which an agent's end waits in vain."""
        return [link for link, wait in self._waits.items() if wait.agent == agent]

    def check(self, link: int, now: float) -> None:
        """Check that an end does not wait in vain for too long, just before its agent's next event.

        Raises:
            Violation: it does.
        """
        wait = self._waits[link]
        disturbed = self._disturbed.get(link, -1.0)
        at_once = wait.is_known and disturbed < wait.since
        limit = self._round_trip if at_once else self._question + 2 * self._round_trip
        if now > max(wait.since, disturbed) + limit + _SLACK:
            seconds = now - max(wait.since, disturbed)
            text = f"agent {wait.agent}, link {link}: {wait.position} is still open, {seconds:.2f} s after the other"
            raise Violation("prompt", f"{text} end has left it")

    def note(self, agent: int, end: Link, said: bool, now: float) -> None:
        """Note that an end waits in vain, for what the other end has left.

        Args:
            agent: whose end it is.
            end: the end.
            said: whether the other end has given it up, and said so.
            now: the true time.
        """
        position, wait = (end.iteration, end.k), self._waits.get(end.number)
        told = self._told.get((agent, end.number), (-1, 0)) > position
        if wait is None or (wait.agent, wait.position) != (agent, position):
            self._waits[end.number] = _Wait(agent, position, now, told or said)
        elif told and not wait.is_known:
            self._waits[end.number] = _Wait(agent, position, now, True)

    def forget(self, link: int) -> None:
        """Note that neither end of a link waits in vain."""
        self._waits.pop(link, None)
