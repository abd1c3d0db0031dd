"""The backtracking line search of TRPO."""

from __future__ import annotations

from collections.abc import Callable


def backtrack(fits: Callable[[float], bool], limit: int, factor: float) -> float:
    """The largest of 1, factor, factor^2, ..., factor^limit that fits; 0 if none does.

    Args:
        fits: tries a fraction of the step, from the largest on.
        limit: how often the step is shortened.
        factor: what it is shortened by.
    """
    return next((fraction for fraction in (factor**j for j in range(limit + 1)) if fits(fraction)), 0.0)
