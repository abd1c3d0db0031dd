"""What faults do to one message on its way: which copies of it arrive, how late, and whether whole.

This is pure, and all who inject faults of messages ask it: the gate before an agent's sockets (`gate`) and the
networks of both simulators (`matrpo.simulation`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

OVERTAKEN = 0.2
"""Delay of a reordered message, in seconds."""


@dataclass(slots=True)
class Passage:
    """A message's way through the faults that act on it, which meet it one after the other.

    Attributes:
        delays: of each copy that arrives, by how many seconds it is late; empty when the message is lost.
        is_corrupt: each copy arrives with something changed.
        garbage: how many malformed messages arrive beside it.
        is_refused: it cannot be sent, and the sender knows that.
    """

    delays: list[float] = field(default_factory=lambda: [0.0])
    is_corrupt: bool = False
    garbage: int = 0
    is_refused: bool = False

    def meet(
        self,
        kind: str,
        random: Callable[[], float],
        *,
        probability: float = 1.0,
        seconds: float = 0.0,
        jitter: float = 0.0,
    ) -> None:
        """Let one fault act on the message.

        Args:
            kind: `drop`, `partition`, `duplicate`, `reorder`, `corrupt`, `hostile` and `full` act with the
                probability; `delay` always does.
            random: draws uniform numbers from 0 to 1.
            probability: of the kinds above.
            seconds: of a delay.
            jitter: of a delay: up to so many seconds more, for each copy by its own.
        """
        if kind == "delay":
            self.delays = [delay + seconds + jitter * random() for delay in self.delays]
        elif random() < probability:
            self._happen(kind)

    def _happen(self, kind: str) -> None:
        if kind in ("drop", "partition"):
            self.delays = []
        elif kind == "duplicate":
            self.delays = self.delays * 2
        elif kind == "reorder":
            self.hold(OVERTAKEN)
        elif kind == "corrupt":
            self.is_corrupt = True
        elif kind == "hostile":
            self.garbage += 1
        elif kind == "full":
            self.is_refused = True
        else:
            raise ValueError(f"no fault of messages: {kind}")

    def hold(self, seconds: float) -> None:
        """Let all copies be later by so many seconds."""
        self.delays = [delay + seconds for delay in self.delays]
