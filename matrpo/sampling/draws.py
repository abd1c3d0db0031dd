"""The random numbers of an iteration's actions, the same however often a step is asked for."""

from __future__ import annotations

import torch
from torch import Tensor


class Draws:
    """What the actions of an iteration's steps are drawn from, in each step the same however often it is asked for.

    Args:
        generator: the steps draw from it in their order.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._again = torch.Generator()
        self._states: list[Tensor] = []

    def begin(self) -> None:
        """The next step is the first of an iteration."""
        self._states.clear()

    def of(self, t: int) -> torch.Generator:
        """The generator as it is before step t; the first time, no step before t may be missing."""
        if t < len(self._states):
            return self._again.set_state(self._states[t])
        self._states.append(self._generator.get_state())
        return self._generator
