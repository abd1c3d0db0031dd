"""MADDPG: multi-agent deep deterministic policy gradient (Lowe et al., "Multi-agent actor-critic for mixed
cooperative-competitive environments", 2017), for a team with one reward, as HARL compares with it."""

from __future__ import annotations

from matrpo.algorithms.shared.deterministic import DeterministicGradient
from matrpo.algorithms.shared.replay import Batch


class MADDPG(DeterministicGradient):
    """Each agent's policy ascends the critic, the other agents' actions taken from the replay buffer."""

    settings_read = DeterministicGradient.settings_read

    def improve(self, batch: Batch) -> None:
        """Agent i's policy mu^i ascends Q(s, a^1, ..., mu^i(o^i), ..., a^N), others from the buffer: its eq. (5)."""
        taken = self.encoded(batch)
        for agent, (actor, seen) in enumerate(zip(self.actors, batch.now.observations, strict=True)):
            actions = list(taken)
            actions[agent] = actor(seen, self.generator)
            self.ascend(agent, batch, actions)
