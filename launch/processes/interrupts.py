"""Deferred signals of the launcher: Ctrl-C, SIGTERM and SIGHUP are counted, and handled at a safe point."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from matrpo.launch.processes.process import StopRequested


class Interrupts:
    """Counts Ctrl-C, SIGTERM and a closed terminal instead of letting them end the launcher.

    Attributes:
        count: how often that happened.
        raising: whether the next one also raises `StopRequested`.
    """

    def __init__(self) -> None:
        self.count = 0
        self.raising = False

    @contextlib.contextmanager
    def counted(self) -> Iterator[Interrupts]:
        """Count inside the block."""

        def count(_signal: int, _frame: object) -> None:
            self.count += 1
            if self.raising:
                self.raising = False
                raise StopRequested

        stops = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        old = {number: signal.getsignal(number) for number in stops}
        try:
            for number in stops:
                if (number, old[number]) != (signal.SIGHUP, signal.SIG_IGN):  # nohup
                    signal.signal(number, count)
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
