"""What every simulation is made of: a queue of events in true time, and clocks that run differently."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

MOST_AT_ONCE = 10_000
"""Limit of events at one instant; more mean that a process sets its timer to the present for ever."""


class EventQueue:
    """Queue of events (discrete-event simulation), in the order of their times, and then of their entry.

    Attributes:
        now: the true time of the present event, in seconds.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._scheduled = 0
        self._at_once = 0

    def schedule(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        """Let an action happen at a time; never, if that is infinite."""
        if time < math.inf:
            self._scheduled += 1
            heapq.heappush(self._heap, (time, self._scheduled, action, arguments))

    def step(self, until: float) -> bool:
        """Let the next event happen; returns False if there is none until then, or the present never ends."""
        if not self._heap or self._heap[0][0] > until:
            return False
        time, _, action, arguments = heapq.heappop(self._heap)
        self._at_once = self._at_once + 1 if time == self.now else 0
        if self._at_once > MOST_AT_ONCE:
            return False
        self.now = time
        action(*arguments)
        return True


class Clock:
    """Clock of a simulated process, and the timer that it has set on it.

    Args:
        offset: its reading at true time 0.
        rate: its seconds per true second.

    Attributes:
        wake_at: the true time at which the timer expires; infinite if there is none.
    """

    def __init__(self, offset: float, rate: float) -> None:
        self.wake_at = math.inf
        self._offset = offset
        self._rate = rate
        self._latest = 0.0
        self._wake = 0.0

    def stop(self) -> None:
        """Forget the timer."""
        self.wake_at, self._wake = math.inf, 0.0

    def now(self, true: float) -> float:
        """The reading of the clock; never before the time of a timer that has expired."""
        reading = self._offset + self._rate * true
        self._latest = max(self._latest, self._wake if true >= self.wake_at else reading, reading)
        return self._latest

    def sleep_until(self, wake: float | None, true: float) -> bool:
        """Set the timer from a reading of the clock; returns whether the time has changed."""
        before = self.wake_at
        self._wake = math.inf if wake is None else wake
        self.wake_at = max(true, (self._wake - self._offset) / self._rate)
        return self.wake_at != before or before <= true
