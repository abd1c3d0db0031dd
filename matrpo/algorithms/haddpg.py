"""HADDPG: heterogeneous-agent deep deterministic policy gradient (Zhong et al., section 3.5.2 and Algorithm 6)."""

from __future__ import annotations

from torch import Tensor

from matrpo.algorithms.shared.deterministic import DeterministicGradient
from matrpo.algorithms.shared.replay import Batch


class HADDPG(DeterministicGradient):
    """Agents' policies ascend the critic in turn, each given the updated actions of those before it."""

    settings_read = DeterministicGradient.settings_read | {"agent_order"}

    def improve(self, batch: Batch) -> None:
        """Agent i_m's policy mu^{i_m} ascends Q(s, mu_new^{i_1:m-1}, mu^{i_m}, mu_old^{i_m+1:n}): eq. (14)."""
        old = [self.draw(agent, batch) for agent in range(self.spec.num_agents)]
        for agent, actions in self.in_turn(old, lambda agent: self.draw(agent, batch)):
            self.ascend(agent, batch, actions)

    def draw(self, agent: int, batch: Batch) -> Tensor:
        """An agent's actions, by its present policy, encoded for the critic."""
        actions: Tensor = self.actors[agent](batch.now.observations[agent], self.generator)
        return actions
