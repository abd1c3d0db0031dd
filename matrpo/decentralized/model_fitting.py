"""Maximum-likelihood fit of an agent's models of the other agents' policies to their observed actions.

In the paper all heads of an agent's network move by the consensus alone: pi^q(a^n | o^q) stays what agent n does as
long as both take the same ratios from the same policy. Where agents cannot express the same ratios, or miss an
iteration, a model drifts away; one that takes for impossible what the other does has no curvature left, so that its
ratios know no bounds. The joint actions, which all agents receive, say how the others act.
"""

from __future__ import annotations

import torch
from torch import Tensor

from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.optimizer import make_adam, step_along

_LEARNING_RATE = 3e-3
_BATCH = 1000


@torch.no_grad()
def fit_models(
    policy: JointPolicy, features: Tensor, joint_actions: Tensor, epochs: int, generator: torch.Generator
) -> None:
    """Fit the last layer's heads for the other agents by maximum likelihood of their actions; the own head stays.

    Args:
        policy: the agent's.
        features: inputs of the last layer for M samples, (M, width).
        joint_actions: of width W, (M, W).
        epochs: passes over the samples.
        generator: shuffles them.
    """
    layer = policy.network.output_layer
    optimizer = make_adam([layer.weight, layer.bias, *policy.log_std], lr=_LEARNING_RATE)
    for _ in range(epochs):
        order = torch.randperm(len(features), generator=generator).to(features.device)
        for rows in torch.split(order, _BATCH):
            gradients = negative_log_likelihood_gradients(policy, features[rows], joint_actions[rows])
            step_along(optimizer, gradients, max_norm=None)


def negative_log_likelihood_gradients(policy: JointPolicy, features: Tensor, joint_actions: Tensor) -> list[Tensor]:
    """Gradient of the mean negative log likelihood of the others' actions, with respect to what `fit_models` changes.

    Args:
        policy: the agent's.
        features: inputs of the last layer for b samples, (b, width).
        joint_actions: (b, W).

    Returns:
        Those of the last layer's weight, of its bias and of each parameter of log standard deviations.
    """
    distribution = policy.distribution_of(policy.network.output_layer(features))
    weights = features.new_full((len(features), policy.num_agents), -1.0 / len(features))
    weights[:, policy.agent_id] = 0.0
    outputs, log_std = distribution.score_transpose(joint_actions, weights)
    parts = torch.split(log_std, [part.numel() for part in policy.log_std])
    of_log_std = [part.view_as(parameter) for part, parameter in zip(parts, policy.log_std, strict=True)]
    return [outputs.T @ features, outputs.sum(0), *of_log_std]
