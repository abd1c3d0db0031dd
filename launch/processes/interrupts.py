"""Deferred signals of the launcher: Ctrl-C, SIGTERM and SIGHUP are counted, and handled at a safe point."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from matrpo.launch.processes.process import STOPS, StopRequested, handle_stops

_counting: list[Interrupts] = []
"""Those in whose blocks this process is."""


class Interrupts:
    """Counts Ctrl-C, SIGTERM and a closed terminal instead of letting them end the launcher.

    Attributes:
        count: how often that happened.
        presses: how often it was Ctrl-C.
        raising: whether the next one also raises `StopRequested`.
    """

    def __init__(self) -> None:
        self.count = 0
        self.presses = 0
        self.raising = False

    @contextlib.contextmanager
    def counted(self) -> Iterator[Interrupts]:
        """Count inside the block."""

        def count(number: int, _frame: object) -> None:
            self.count += 1
            self.presses += number == signal.SIGINT
            if self.raising:
                self.raising = False
                raise StopRequested

        old = {number: signal.getsignal(number) for number in STOPS}
        try:
            _counting.append(self)
            handle_stops(count, *STOPS)
            yield self
        finally:
            _counting.remove(self)
            for number, handler in old.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in the main thread, to which this is confined, if the block takes longer."""

    def expire(_signal: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def stop_launcher() -> None:
    """Have this process stop as at SIGTERM, unless it has nothing to stop yet, or any more."""
    if _counting:
        os.kill(os.getpid(), signal.SIGTERM)
