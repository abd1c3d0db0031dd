"""Trust-region metrics of an update: ratios, KL and total variation (paper on decentralised PPO, section 7).

Ratios are of the actions that were taken. A joint policy's total variation is estimated as there, by the sum of the
agents', which bounds it (Proposition 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from matrpo.networks.distributions import Head
from matrpo.networks.joint_policy import JointDistribution

Distributions = TypeVar("Distributions", Head, JointDistribution)


@dataclass(frozen=True)
class Change:
    """The change of one agent's policy in an update, at the M samples that it was made on.

    Attributes:
        log_ratio: (M,), of the actions that were taken.
        kl: (M,), D_KL(old || new).
        total_variation: (M,), exact between categorical distributions; between Gaussians Pinsker's bound on it.
        entropy: (M,), of the new policy.
        alive: (M,) booleans: whether what the agent did could matter.
    """

    log_ratio: Tensor
    kl: Tensor
    total_variation: Tensor
    entropy: Tensor
    alive: Tensor

    def metrics(self) -> dict[str, float | None]:
        """Range of the ratio, mean and largest total variation, mean KL and entropy, where the agent was alive."""
        counted = self.alive
        if not counted.any():
            return dict.fromkeys(_NAMES)
        log_ratio, variation = self.log_ratio[counted], self.total_variation[counted]
        values = (
            log_ratio.min().exp(),
            log_ratio.max().exp(),
            variation.mean(),
            variation.max(),
            self.kl[counted].mean(),
            self.entropy[counted].mean(),
        )
        return dict(zip(_NAMES, map(float, values), strict=True))


_NAMES = ("ratio_min", "ratio_max", "total_variation_mean", "total_variation_max", "kl", "entropy")


@torch.no_grad()
def changes(old: Distributions, new: Distributions, actions: Tensor, alive: Tensor) -> list[Change]:
    """The change of each of n policies in an update.

    Args:
        old, new: their distributions at M samples, before and after.
        actions: what was done, as `log_prob` of these takes it.
        alive: (M, n) booleans.
    """
    log_ratio = new.log_prob(actions) - old.log_prob(actions)
    parts = (log_ratio, old.kl_to(new), old.total_variation_to(new), new.entropy(), alive)
    return [Change(*columns) for columns in zip(*(part.unbind(1) for part in parts), strict=True)]


def joint_metrics(parts: Sequence[Change]) -> dict[str, Any]:
    """Range of the joint policy's ratio, and its mean and largest total variation, from the change of each agent's."""
    log_ratio = torch.stack([part.log_ratio.masked_fill(~part.alive, 0.0) for part in parts]).sum(0)
    variations = [part.total_variation[part.alive] for part in parts if part.alive.any()]
    return {
        "joint_ratio_min": float(log_ratio.min().exp()),
        "joint_ratio_max": float(log_ratio.max().exp()),
        "joint_total_variation_mean": sum(float(variation.mean()) for variation in variations),
        "joint_total_variation_max": sum(float(variation.max()) for variation in variations),
    }
