"""What a simulation ends with when something that must always hold does not."""

from __future__ import annotations


class Violation(Exception):  # noqa: N818
    """An invariant does not hold.

    Args:
        invariant: `I1` to `I5`, `prompt` or `liveness`.
        text: what was found, in one line.
    """

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant
        self.text = text
