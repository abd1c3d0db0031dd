"""HADDPG: heterogeneous-agent deep deterministic policy gradient (Zhong et al., section 3.5.2 and Algorithm 6)."""

from __future__ import annotations

import torch

from matrpo.algorithms.shared.deterministic import DeterministicGradient
from matrpo.algorithms.shared.replay import Batch


class HADDPG(DeterministicGradient):
    """Agents' policies ascend the critic in turn, each given the updated actions of those before it."""

    settings_read = DeterministicGradient.settings_read | {"agent_order"}

    def improve(self, batch: Batch) -> None:
        """Agent i_m's policy mu^{i_m} ascends Q(s, mu_new^{i_1:m-1}, mu^{i_m}, mu_old^{i_m+1:n}): eq. (14)."""
        observations = batch.now.observations
        old = [actor(seen, self.generator) for actor, seen in zip(self.actors, observations, strict=True)]
        actions = [action.detach() for action in old]
        for agent in self.update_order():
            actions[agent] = old[agent]
            self.ascend(agent, batch, actions)
            with torch.no_grad():
                actions[agent] = self.actors[agent](observations[agent], self.generator)
