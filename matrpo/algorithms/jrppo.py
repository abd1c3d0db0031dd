"""JR-PPO: PPO on the joint policy's ratio (eq. (6) and Algorithm 1 of the paper on decentralised PPO)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from matrpo.algorithms.shared.learner import PolicyPass, Samples, ascend
from matrpo.algorithms.shared.mirror import OnPolicyTrajectories, PolicySpace
from matrpo.algorithms.shared.on_policy import OnPolicy
from matrpo.errors import ConfigError
from matrpo.networks.distributions import Head
from matrpo.networks.sequences import random_parts
from matrpo.settings.config import Config
from matrpo.spaces import TaskSpec


class JRPPO(OnPolicy):
    """All policies at once ascend min(r A, clip(r, 1 +- epsilon) A), r: the product of their ratios, A: advantage."""

    settings_read = OnPolicy.settings_read | PolicySpace.settings_read | {"clip_range"}

    def __init__(self, spec: TaskSpec, state_sizes: tuple[int, ...], config: Config) -> None:
        if config.clip_scaling == "per-agent":
            raise ConfigError(
                "clip_scaling per-agent is for the ratio of each agent; jrppo clips the joint one: drop it"
            )
        super().__init__(spec, state_sizes, config)

    def improve(self, samples: list[Samples], old: list[Head], advantages: list[Tensor]) -> list[dict[str, Any]]:
        """Maximise the clipped objective of the joint ratio, eq. (6), and each policy's entropy bonus."""
        config, sampling = self.config, OnPolicyTrajectories()
        states = [sampling(part) for part in samples]
        old_log_prob, advantage = _log_prob(samples, old), torch.stack(advantages).mean(0)
        for _ in range(config.policy_epochs):
            order = self.generator, samples[0].sequences, self.device
            for units in random_parts(len(advantage), config.policy_batch, *order):
                rows, parts = zip(*(part.part(units) for part in samples), strict=True)
                chosen = slice(None) if rows[0] is None else rows[0]
                passes = [PolicyPass(self.learner(q), part) for q, part in enumerate(parts)]
                new = [each.head for each in passes]
                ratio = (_log_prob(parts, new) - old_log_prob[chosen]).exp()
                clipped = ratio.clamp(1.0 - config.clip_range, 1.0 + config.clip_range)
                gain = torch.minimum(ratio * advantage[chosen], clipped * advantage[chosen]).mean()
                entropies = [
                    (head.entropy().squeeze(1) * weights[chosen]).mean()
                    for head, weights in zip(new, states, strict=True)
                ]
                ascend(gain + config.entropy_coef * torch.stack(entropies).sum(), passes)
        return [{} for _ in samples]


def _log_prob(samples: list[Samples] | tuple[Samples, ...], heads: list[Head]) -> Tensor:
    """Log probabilities of the joint actions of M samples, over the agents that were alive. (M,)."""
    pairs = zip(samples, heads, strict=True)
    return torch.stack([part.log_prob(head).masked_fill(~part.alive, 0.0) for part, head in pairs]).sum(0)
