"""Action masks: their layout, and what agents do to whom they allow nothing."""

from __future__ import annotations

from itertools import accumulate, pairwise

import numpy as np

from matrpo.spaces import ActionSpace, Box


def factors(space: ActionSpace) -> tuple[int, ...]:
    """The numbers of choices that an action mask lists, one part after the other; none if the space has no masks."""
    return () if isinstance(space, Box) else space.sizes


def mask_size(space: ActionSpace) -> int:
    """Length of an action mask; 0 if the space has none."""
    return sum(factors(space))


def of_the_present(mask: np.ndarray | None, space: ActionSpace, present: np.ndarray) -> np.ndarray | None:
    """A mask that allows nothing where its agent is not in the episode.

    Args:
        mask: (B, n) bool, or None.
        space: whose mask it is; a `Box` has none.
        present: (B,) bool, where the agent is in the episode.
    """
    if present.all() or not mask_size(space):
        return mask
    return np.repeat(present[:, np.newaxis], mask_size(space), axis=1) & (True if mask is None else mask)


def playable(mask: np.ndarray | None, space: ActionSpace) -> np.ndarray | None:
    """The mask that a policy is given: choice 0 alone where nothing is allowed, which stands for doing nothing.

    Args:
        mask: (B, n) bool, or None.
        space: whose mask it is.
    """
    if mask is None:
        return None
    ends = accumulate(factors(space), initial=0)
    empty = {a: nothing for a, b in pairwise(ends) if (nothing := ~mask[:, a:b].any(axis=1)).any()}
    if not empty:
        return mask
    filled = mask.copy()
    for first, rows in empty.items():
        filled[rows, first] = True
    return filled
