"""Simultaneous policy updates of all agents, each as if the other policies stayed fixed."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from matrpo.algorithms.shared.learner import Samples, merge
from matrpo.algorithms.shared.mirror import Mirror, Objective
from matrpo.algorithms.shared.on_policy import OnPolicy
from matrpo.networks.distributions import Head
from matrpo.networks.sequences import side_by_side


class Simultaneous(OnPolicy):
    """Simultaneous updates, the counterpart of `haml.HAML`: advantages are not corrected for the others' updates.

    With `share_parameters` one policy maximises the sum of all agents' objectives.
    """

    @abstractmethod
    def mirror(self) -> Mirror:
        """The drift functional, the neighbourhood operator and the sampling distribution."""

    def improve(self, samples: list[Samples], old: list[Head], advantages: list[Tensor]) -> list[dict[str, Any]]:
        """Maximise E[r^k A^k] less the drift, for every agent k."""
        if self.config.share_parameters:
            length = self.config.rollout_length
            samples, advantages = [merge(samples, length)], [side_by_side(advantages, length)]
            with torch.no_grad():
                old = [samples[0].head_of(self.policies[0], side_by_side(self.outputs, length))]
        mirror, reports = self.mirror(), []
        for agent, (part, before, weights) in enumerate(zip(samples, old, advantages, strict=True)):
            learner = self.learner(agent)
            objective = Objective(learner, part, before, weights, mirror)
            reports.append(mirror.neighbourhood.maximise(objective, learner))
        return [dict(reports[agent % len(reports)]) for agent in range(self.spec.num_agents)]
