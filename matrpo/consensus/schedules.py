"""Activation schedules of an agent's links: a common sequence derived from the seed, or a Poisson clock per link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from matrpo.consensus.link import Link
from matrpo.consensus.link_types import Outcome
from matrpo.topology.schedule import PoissonClock

LONGEST_BACKOFF = 6
"""Cap of the exponential back-off: refusals in a row after which the waiting time no longer doubles."""

PATIENCE = 10
"""Timeout, in deadlines, for the next activation by a neighbour that sends heartbeats but activates nothing."""


class Schedule(Protocol):
    """Interface of the activation schedule of one agent in one iteration."""

    @property
    def finished(self) -> bool:
        """Whether no activation is left."""

    def pick(self, now: float) -> tuple[Link, int] | None:
        """The next activation (link, k) of an idle agent; None if none is due now."""

    def closed(self, link: Link, now: float) -> None:
        """Note that the activation that was picked is over."""

    def tend(self, now: float, idle: bool) -> None:
        """Send the messages that are due besides activations, such as refusals."""

    def next_event(self, idle: bool) -> float | None:
        """Time of the next timer, when `pick` or `tend` must be called; None if only a message can change that."""


class SeededSchedule:
    """Schedule by a common sequence (`link_sequence`): the activations that involve this agent, in order.

    Args:
        positions: the activations (k, link index).
        links: this agent's links by index.
    """

    def __init__(self, positions: Sequence[tuple[int, int]], links: Mapping[int, Link]) -> None:
        self._left = [(links[number], k) for k, number in reversed(positions)]

    @property
    def finished(self) -> bool:
        """Whether the sequence is exhausted."""
        return not self._left

    def pick(self, now: float) -> tuple[Link, int] | None:  # noqa: ARG002
        """The next activation of the sequence."""
        return self._left.pop() if self._left else None

    def closed(self, link: Link, now: float) -> None:
        """Do nothing: the sequence goes on whatever the outcome."""

    def tend(self, now: float, idle: bool) -> None:
        """Do nothing: no messages are due besides activations."""

    def next_event(self, idle: bool) -> float | None:  # noqa: ARG002
        """None, no timer: there always is an open activation until the sequence is exhausted."""
        return None


class PoissonSchedule:
    """Schedule by Poisson clocks: each link's smaller id activates it after exponential waiting times.

    An agent in an activation refuses others: nobody waits for an agent that waits, so there is no deadlock.

    Args:
        ends: how this agent takes part in each of its links, in the order of their indices.
    """

    def __init__(self, ends: Sequence[Initiator | Responder]) -> None:
        self._ends = {end.link.number: end for end in ends}

    @property
    def finished(self) -> bool:
        """Whether all links are settled."""
        return all(end.settled for end in self._ends.values())

    def pick(self, now: float) -> tuple[Link, int] | None:
        """The activation to join or open: a neighbour's pending one first, else the own one longest due."""
        due = [(end.due, end.link.number) for end in self._ends.values() if end.due is not None and end.due <= now]
        if not due:
            return None
        end = self._ends[min(due)[1]]
        return end.link, end.next_k

    def closed(self, link: Link, now: float) -> None:
        """Let the link's end decide when it is next due."""
        self._ends[link.number].closed(now)

    def tend(self, now: float, idle: bool) -> None:
        """Send refusals of activations and notices that this agent is done."""
        for end in self._ends.values():
            end.tend(now, idle)

    def next_event(self, idle: bool) -> float | None:
        """The earliest time at which an end is due (if the agent is idle) or has something to send or to give up."""
        times = [end.wake_at for end in self._ends.values() if not end.settled]
        if idle:
            times += [end.due for end in self._ends.values() if end.due is not None]
        return min(times, default=None)


class Initiator:
    """The initiating end of a link (smaller id): opens activations, retries refused ones, then says that it is done.

    A refused activation is retried with a new number, after a waiting time that doubles with each refusal in a row;
    it does not count as one of the link's activations.

    Args:
        link: this end.
        clock: the link's clock in this iteration.
        activations: how many activations to make.
        refusals: how many refusals to accept before this end is done regardless.
        deadline: seconds to wait for the neighbour to confirm the end.
        resend: seconds between two requests to confirm it.
        now: the time.
    """

    def __init__(
        self,
        link: Link,
        clock: PoissonClock,
        *,
        activations: int,
        refusals: int,
        deadline: float,
        resend: float,
        now: float,
    ) -> None:
        self.link = link
        self.settled = False
        self._clock = clock
        self._activations = activations
        self._refusals = refusals
        self._deadline = deadline
        self._resend = resend
        self._backoff = 0
        self._closing_until = self._send_at = float("inf")
        self.due: float | None = None
        self._schedule(now)

    @property
    def next_k(self) -> int:
        """The number of the activation that is due."""
        return self.link.k + 1

    @property
    def wake_at(self) -> float:
        """Time of the next timer, when `tend` must be called."""
        return min(self._send_at, self._closing_until)

    def closed(self, now: float) -> None:
        """Count the activation and draw the next waiting time."""
        if self.settled:
            return
        if self.link.outcome is Outcome.REFUSED:
            self._refusals -= 1
            self._backoff = min(self._backoff + 1, LONGEST_BACKOFF)
        else:
            self._activations -= 1
            self._backoff = 0
        self._schedule(now)

    def _schedule(self, now: float) -> None:
        if self._activations > 0 and self._refusals > 0:
            self.due = now + self._clock.next_wait() * 2**self._backoff
            return
        self.due = None
        self._closing_until = now + self._deadline
        self._send_at = now

    def tend(self, now: float, idle: bool) -> None:  # noqa: ARG002
        """Tell the neighbour that this end is done, until that is confirmed or the neighbour taken for dead."""
        if self.settled:
            return
        if now >= self._send_at:
            self._send_at = now + self._resend
            self.link.finish(confirm=True)
            self.settled = self.link.silent
        if self.link.neighbour_done or now >= self._closing_until:
            self.settled = True
            self.due = None


class Responder:
    """The responding end of a link (larger id): joins the neighbour's activations, or refuses them while busy.

    Args:
        link: this end.
        deadline: seconds without any message after which the neighbour is taken for dead.
        now: the time.
    """

    def __init__(self, link: Link, *, deadline: float, now: float) -> None:
        self.link = link
        self.settled = False
        self._deadline = deadline
        self._active_at = now

    @property
    def due(self) -> float | None:
        """A pending activation is due at once."""
        return None if self.settled or self.link.pending is None else float("-inf")

    @property
    def next_k(self) -> int:
        """The number of the pending activation."""
        assert self.link.pending is not None
        return self.link.pending

    @property
    def wake_at(self) -> float:
        """Timeout at which the neighbour is given up for this iteration."""
        return min(self.link.heard_at + self._deadline, self._active_at + PATIENCE * self._deadline)

    def closed(self, now: float) -> None:
        """Note that the neighbour is active."""
        self._active_at = now

    def tend(self, now: float, idle: bool) -> None:
        """Refuse what cannot be joined; settle when the neighbour is done, or taken for dead."""
        if not self.settled and (self.link.neighbour_done or self.link.silent or now >= self.wake_at):
            self.settled = True
            if now >= self.link.heard_at + self._deadline:
                self.link.silent = True
        if self.link.pending is not None and self.settled:
            self.link.finish(confirm=False)
        elif self.link.pending is not None and not idle:
            self.link.refuse()
