"""Back-off and limit of the restarts of a process that fails."""

from __future__ import annotations

from collections import deque

_FIRST = 0.5
_MOST = 5
_WINDOW = 60.0


class BackOff:
    """Exponential back-off: 0.5 s before the first restart, twice as long before each within a minute, five at most."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def next_delay(self, now: float) -> float | None:
        """Seconds to wait before the process that has just failed is started again; None if it failed too often."""
        while self._times and now - self._times[0] > _WINDOW:
            self._times.popleft()
        if len(self._times) == _MOST:
            return None
        self._times.append(now)
        return float(_FIRST * 2 ** (len(self._times) - 1))
