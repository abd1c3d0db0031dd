"""Which processes are started again, and the back-off and limit of their restarts."""

from __future__ import annotations

import enum
from collections import deque

from matrpo.launch.processes.process import EXIT_MISTAKE
from matrpo.runs.process_id import ProcessId

_FIRST = 0.5
_MOST = 5
_WINDOW = 60.0


class Restarts(enum.Enum):
    """Which processes of a run are started again."""

    NONE = "none"
    KILLED = "those that a signal has killed"
    FAILED = "those, and those that fail by themselves"

    def covers(self, code: int) -> bool:
        """Whether a process is started again that has ended with this exit status, negative: by that signal."""
        return (self is not Restarts.NONE and code < 0) or (self is Restarts.FAILED and code not in (0, EXIT_MISTAKE))


def goes_on_without(process: ProcessId, code: int, rule: str) -> bool:
    """Whether a run that has begun goes on without a process that is not started again.

    Args:
        process: which.
        code: its exit status; negative: it was killed by that signal. One that fails by itself ends the run.
        rule: `on_agent_loss`.
    """
    return not process.is_server and code < 0 and rule != "abort"


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
