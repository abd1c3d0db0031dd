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
from matrpo.networks.optimizer import make_adam

_LEARNING_RATE = 3e-3
_BATCH = 1000


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
    ids = torch.arange(policy.num_agents, device=features.device)
    others = ids[ids != policy.agent_id]
    optimizer = make_adam([layer.weight, layer.bias, *policy.log_std], lr=_LEARNING_RATE, fused=False)
    for _ in range(epochs):
        order = torch.randperm(len(features), generator=generator).to(features.device)
        for rows in torch.split(order, _BATCH):
            log_prob = policy.distribution_of(layer(features[rows])).log_prob(joint_actions[rows])
            optimizer.zero_grad()
            (-log_prob[:, others].sum(1).mean()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
