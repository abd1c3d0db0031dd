"""Replayable random stream of the sampled actions: a repeated step draws the same numbers."""

from __future__ import annotations

import torch
from torch import Tensor


class Draws:
    """Random stream from which actions are sampled; a step that is repeated draws the same numbers again.

    Args:
        generator: the stream; the steps draw from it in their order.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._again = torch.Generator()
        self._states: list[Tensor] = []

    def begin(self) -> None:
        """Begin an iteration: the next step is its first."""
        self._states.clear()

    def of(self, t: int) -> torch.Generator:
        """The generator in its state before step t; the first time, no step before t may be missing."""
        if t < len(self._states):
            return self._again.set_state(self._states[t])
        self._states.append(self._generator.get_state())
        return self._generator
