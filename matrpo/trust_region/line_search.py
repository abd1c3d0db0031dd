"""The backtracking line search of TRPO (Schulman et al., appendix C)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from matrpo.networks.mlp import set_flat_parameters


@dataclass(frozen=True)
class Reached:
    """A candidate policy of the line search, relative to the old one.

    Attributes:
        fraction: of the full step; 0 is the old policy.
        kl: mean KL divergence from the old policy.
        surrogate: estimated improvement of the objective.
    """

    fraction: float
    kl: float
    surrogate: float


@torch.no_grad()
def line_search(
    parameters: Sequence[Tensor],
    before: Tensor,
    change: Tensor,
    evaluate: Callable[[], tuple[float, float]],
    accepts: Callable[[Reached], bool],
    limit: int,
    factor: float,
) -> Reached:
    """Backtrack: take the largest accepted fraction of a step among 1, factor, ..., factor^limit, or none.

    Args:
        parameters: the policy's; they are left at what is returned.
        before: the old policy's P parameters, (P,).
        change: (P,), the full step.
        evaluate: KL divergence and surrogate of the policy as its parameters are now.
        accepts: whether a policy is good enough.
        limit: how often the step is shortened.
        factor: what it is shortened by.
    """
    for fraction in (factor**j for j in range(limit + 1)):
        set_flat_parameters(parameters, before + fraction * change)
        reached = Reached(fraction, *evaluate())
        if accepts(reached):
            return reached
    set_flat_parameters(parameters, before)
    return Reached(0.0, 0.0, 0.0)
