"""MAPPO: multi-agent PPO with a centralised critic (Yu et al.; eqs. (3) and (4) of the paper on decentralised PPO)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from matrpo.algorithms.mirror import ClipDrift, Mirror, Objective, PolicySpace, clip_range
from matrpo.algorithms.on_policy import OnPolicy, Samples, merge
from matrpo.sequences import side_by_side


class MAPPO(OnPolicy):
    """All agents maximise their clipped objectives at once, each by its own ratio alone.

    With `share_parameters` one policy maximises the sum of them, eq. (4).
    """

    def mirror(self) -> Mirror:
        """Clipping as a drift, among all policies."""
        return Mirror(ClipDrift(clip_range(self.config, self.spec.num_agents)), PolicySpace())

    def improve(self, samples: list[Samples], advantages: list[Tensor]) -> list[dict[str, Any]]:
        """Maximise E[r^k A] less the drift, for every agent k."""
        if self.config.share_parameters:
            length = self.config.rollout_length
            samples, advantages = [merge(samples, length)], [side_by_side(advantages, length)]
        mirror, reports = self.mirror(), []
        for agent, (part, weights) in enumerate(zip(samples, advantages, strict=True)):
            learner = self.learner(agent)
            with torch.no_grad():
                old = part.head(learner.policy)
            objective = Objective(learner, part, old, weights, mirror)
            reports.append(mirror.neighbourhood.maximise(objective, learner))
        return [dict(reports[agent % len(reports)]) for agent in range(self.spec.num_agents)]
