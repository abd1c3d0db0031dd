"""Heterogeneous-agent mirror learning: sequential policy updates, each on advantages weighted by earlier ratios.

Algorithm Template 2 of HARL (Zhong et al.). A new algorithm is a subclass that says what its `mirror` is;
docs/own-algorithm.md writes one.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from matrpo.algorithms.shared.learner import Samples
from matrpo.algorithms.shared.mirror import Mirror, Objective
from matrpo.algorithms.shared.on_policy import OnPolicy
from matrpo.networks.distributions import Head


class HAML(OnPolicy):
    """Sequential updates in a new random order in each iteration (Theorem 14 needs every order to be possible)."""

    settings_read = OnPolicy.settings_read | {"agent_order"}
    _improved: list[Head] | None = None

    @abstractmethod
    def mirror(self) -> Mirror:
        """The drift functional, the neighbourhood operator and the sampling distribution."""

    def improve(self, samples: list[Samples], old: list[Head], advantages: list[Tensor]) -> list[dict[str, Any]]:
        """Agent i_m maximises E[r^{i_m} M] less its drift, M = A * prod_{j<m} r^{i_j}, r: ratios: eq. (10)."""
        mirror = self.mirror()
        reports: list[dict[str, Any]] = [{} for _ in samples]
        compound = torch.ones_like(advantages[0])
        heads = list(old)
        for agent in self.update_order():
            part, learner = samples[agent], self.learner(agent)
            objective = Objective(learner, part, old[agent], compound * advantages[agent], mirror)
            reports[agent] = mirror.neighbourhood.maximise(objective, learner)
            with torch.no_grad():
                heads[agent] = part.head(learner.policy)
                new_log_prob = part.log_prob(heads[agent])
            log_ratio = new_log_prob - objective.old_log_prob
            compound = compound * log_ratio.masked_fill(~part.alive, 0.0).exp()
        self._improved = None if self.config.share_parameters else heads
        return reports

    def improved(self, samples: list[Samples]) -> list[Head]:
        """As `OnPolicy.improved`: a policy of an agent's own is as it was after its turn."""
        heads, self._improved = self._improved, None
        return super().improved(samples) if heads is None else heads
