"""What one agent remembers of an iteration: its own observations and rewards, and the joint actions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from matrpo.critic import Critic
from matrpo.envs.shared import AgentStep
from matrpo.gae import generalized_advantages
from matrpo.spaces import TaskSpec


class Rollout:
    """The T x B samples of an iteration, seen by one agent. Sample m = t * B + b is the same event for every agent.

    Args:
        agent_id: whose observations and rewards these are.
        spec: sizes of observations and actions.
        length, num_envs: T and B.
    """

    def __init__(self, agent_id: int, spec: TaskSpec, length: int, num_envs: int) -> None:
        shape = (length, num_envs)
        self._length = length
        self._observations = torch.zeros(*shape, spec.observation_sizes[agent_id])
        self._joint_actions = torch.zeros(*shape, spec.joint_action_width)
        self._rewards = torch.zeros(shape)
        self._reward_scale = torch.ones(1)
        self._terminated = torch.zeros(shape, dtype=torch.bool)
        self._truncated = torch.zeros(shape, dtype=torch.bool)
        self._masks: Tensor | None = None
        self._final_observations: dict[int, Tensor] = {}
        self._last_observation = self._observations[0]
        self._t = 0

    @property
    def t(self) -> int:
        """Steps whose action is recorded."""
        return self._t

    def discard(self) -> None:
        """Forget what was recorded of an iteration that is thrown away."""
        self._t = 0
        self._final_observations.clear()

    def add_observation(self, step: AgentStep) -> None:
        """Record what the agent sees before it acts."""
        if self._t == self._length:
            self.discard()
        self._observations[self._t] = _tensor(step.observation)
        if step.action_mask is not None:
            if self._masks is None:
                self._masks = torch.zeros(*self._rewards.shape, step.action_mask.shape[-1], dtype=torch.bool)
            self._masks[self._t] = _tensor(step.action_mask)
        self._t += 1

    def add_outcome(self, step: AgentStep) -> None:
        """Record what the joint action since the last observation brought about."""
        t = self._t - 1
        self._rewards[t] = _tensor(step.reward)
        self._reward_scale = _tensor(step.reward_scale)
        self._terminated[t] = _tensor(step.terminated)
        self._truncated[t] = _tensor(step.truncated)
        self._joint_actions[t] = _tensor(step.joint_action)
        if step.final_observation is not None:
            self._final_observations[t] = _tensor(step.final_observation)
        self._last_observation = _tensor(step.observation)

    @property
    def observations(self) -> Tensor:
        """(M, observation size)."""
        return self._observations.flatten(0, 1)

    @property
    def joint_actions(self) -> Tensor:
        """(M, width)."""
        return self._joint_actions.flatten(0, 1)

    @property
    def action_masks(self) -> Tensor | None:
        """(M, n), or None where every action is always available."""
        return None if self._masks is None else self._masks.flatten(0, 1)

    def advantages(self, critic: Critic, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
        """GAE of the scaled rewards by the given critic, and the returns it implies (advantage + value). Each (M,)."""
        values = critic.values(self._observations)
        next_values = torch.cat([values[1:], critic.values(self._last_observation).unsqueeze(0)])
        ended = self._terminated | self._truncated
        for t, final_observation in self._final_observations.items():
            next_values[t] = torch.where(ended[t], critic.values(final_observation), next_values[t])
        rewards = self._rewards / self._reward_scale
        advantages = generalized_advantages(
            rewards, values, next_values, self._terminated, self._truncated, gamma, gae_lambda
        )
        return advantages.flatten(), (advantages + values).flatten()


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
