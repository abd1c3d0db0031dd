"""Fisher matrix on a share of the samples, whose products cost as much less (TRPO, Schulman et al. 2015, appendix C).

The gradient V of the local step and its log ratios stay those of all samples: only the metric is estimated from fewer.
The authors of MATRPO take every fifth sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.linearized_policy import LinearizedPolicy
from matrpo.networks.sequences import Sequences


class SampledFisher:
    """A linearised policy with the Fisher matrix of a share of its samples.

    Args:
        model: linearised at all samples: its Jacobian products are kept.
        curvature: the same policy, linearised at the share: its Fisher products and Kronecker factors are taken.
    """

    def __init__(self, model: LinearizedPolicy, curvature: LinearizedPolicy) -> None:
        self._model = model
        self._curvature = curvature
        self.parameters = model.parameters
        self.distribution = model.distribution
        self.num_samples = model.num_samples
        self.num_agents = model.num_agents

    @property
    def fisher_products(self) -> int:
        """How many Fisher products were computed."""
        return self._curvature.fisher_products

    @property
    def jacobian_products(self) -> int:
        """How many Jacobian products were computed."""
        return self._model.jacobian_products + self._curvature.jacobian_products

    def jvp(self, direction: Tensor) -> Tensor:
        """Jacobian-vector product on all samples. Shapes (D,) -> (N, M)."""
        return self._model.jvp(direction)

    def vjp(self, weights: Tensor) -> Tensor:
        """Vector-Jacobian product on all samples. Shapes (N, M) -> (D,)."""
        return self._model.vjp(weights)

    def fisher(self, direction: Tensor) -> tuple[Tensor, None]:
        """Fisher-vector product of the share; no Jacobian-vector product comes of it. Shapes (D,) -> (D,), None."""
        return self._curvature.fisher(direction)[0], None

    def kronecker_factors(self) -> list[tuple[Tensor, Tensor]]:
        """Kronecker factors of the share's Fisher matrix."""
        return self._curvature.kronecker_factors()


def linearize(
    policy: JointPolicy,
    observations: Tensor,
    actions: Tensor,
    action_masks: Tensor | None,
    sequences: Sequences | None,
    fisher_share: float,
) -> LinearizedPolicy | SampledFisher:
    """Linearise a policy at M samples, with the Fisher matrix of all or of a share of them.

    Args:
        policy: the policy.
        observations: (M, observation size).
        actions: joint actions, (M, width).
        action_masks: (M, n), or None.
        sequences: how the samples follow one another, for a recurrent policy; the share is then of whole environments.
        fisher_share: which share, above 0 and at most 1; it is spread evenly over the samples' order.
    """
    model = LinearizedPolicy(policy, observations, actions, action_masks, sequences)
    wanted = max(1, round(fisher_share * len(observations)))
    if wanted >= len(observations):
        return model
    rows, part = _share(len(observations), wanted, sequences, observations.device)
    masks = None if action_masks is None else action_masks[rows]
    return SampledFisher(model, LinearizedPolicy(policy, observations[rows], actions[rows], masks, part))


def _share(
    num_samples: int, wanted: int, sequences: Sequences | None, device: torch.device
) -> tuple[Tensor, Sequences | None]:
    """Row numbers of the share, and how its samples follow one another."""
    if sequences is None:
        return _spread(num_samples, wanted, device), None
    steps, num_envs = sequences.starts.shape
    envs = _spread(num_envs, max(1, wanted // steps), device)
    chunks = torch.arange(len(sequences.states), device=device).unsqueeze(1)
    return sequences.select((chunks * num_envs + envs).flatten())


def _spread(count: int, wanted: int, device: torch.device) -> Tensor:
    """So many of the numbers below a count, at equal distances."""
    return torch.arange(wanted, device=device) * count // wanted
