"""What a simulation ends with, and what it tells meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Trace = Callable[[float, str], None]
"""Callback that is given each event's true time and description."""


class Violation(Exception):  # noqa: N818
    """An invariant does not hold.

    Args:
        invariant: of links, `I1` to `I5`, `prompt` or `liveness`; of the lock step, `L1` to `L6`.
        text: what was found, in one line.
    """

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant
        self.text = text


@dataclass(frozen=True)
class Outcome:
    """Outcome of a simulation.

    Attributes:
        events: messages delivered, timers and faults.
        violation: the first invariant that did not hold; None if all did.
    """

    events: int
    violation: Violation | None
