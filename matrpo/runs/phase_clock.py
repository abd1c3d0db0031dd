"""Timing of an iteration: seconds in each phase, seconds of waiting, and the increase of counters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class PhaseClock:
    """Measures each iteration: seconds in each phase, seconds of waiting, and the increase of counters.

    Args:
        now: reads a monotonic clock, in seconds.
        waited: reads how many of them were spent waiting for others so far; they count for no phase. None where there
            is nobody to wait for.
        used: reads the processor seconds that this process has used so far. None where they are not this clock's alone.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.perf_counter,
        waited: Callable[[], float] | None = None,
        used: Callable[[], float] | None = None,
    ) -> None:
        self._now = now
        self._waited = waited
        self._used = used
        self._running = False
        self._taken_at = used() if used else 0.0
        self._seconds: dict[str, float] = {}
        self._counters: Mapping[str, Any] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the block for `name`; a block inside another phase's is part of that phase."""
        if self._running:
            yield
            return
        self._running = True
        begin, waited = self._now(), self._waited() if self._waited else 0.0
        used = self._used() if self._used else 0.0
        try:
            yield
        finally:
            self._running = False
            seconds = self._now() - begin
            if self._waited:
                waited = self._waited() - waited
                self._add("seconds_waiting", waited)
                seconds -= waited
            self._add(f"seconds_{name}", seconds)
            if self._used:
                self._add(f"cpu_seconds_{name}", self._used() - used)

    def take(self, counters: Mapping[str, Any]) -> dict[str, Any]:
        """Increase of each counter since the last call, and `seconds_<phase>` and `seconds_waiting` since then.

        Where processor time is read, also `cpu_seconds_<phase>`, and `cpu_seconds` of all that was done since then.

        Args:
            counters: numbers, or mappings of counters.
        """
        grown = _growth(counters, self._counters)
        if self._used:
            used = self._used()
            self._add("cpu_seconds", used - self._taken_at)
            self._taken_at = used
        seconds = self._seconds
        self._counters, self._seconds = counters, {}
        return grown | seconds

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds


def _growth(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _growth(value, before.get(name, {})) if isinstance(value, Mapping) else value - before.get(name, 0)
        for name, value in now.items()
    }
