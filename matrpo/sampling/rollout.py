"""Rollout storage of one agent: its own observations and rewards, and the joint actions, of an iteration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from matrpo.envs.shared import AgentStep
from matrpo.networks.critic import Critic
from matrpo.networks.device import CPU
from matrpo.networks.gae import generalized_advantages
from matrpo.networks.sequences import Sequences
from matrpo.settings.sections import NetworkSettings, SamplingSettings
from matrpo.spaces import TaskSpec


@dataclass(frozen=True)
class Values:
    """A critic's values along a rollout.

    Attributes:
        current: (T, B), V(o_t).
        following: (T, B), V of the observation that followed, before any reset.
        states: (T + 1, B, S), the critic's recurrent states before each observation and after the last.
    """

    current: Tensor
    following: Tensor
    states: Tensor


class Rollout:
    """One agent's rollout: M = T x B samples (T steps, B environments); m = t * B + b is the same event for all agents.

    Args:
        agent_id: whose observations and rewards these are.
        spec: sizes of observations and actions.
        sampling: T and B.
        networks: chunk length of backpropagation through time for recurrent networks; it divides T.
        state_size: length of the recurrent state of the policy, and of the critic; 0 if they have none.
        device: where the networks learn, and the samples are taken to; they are collected on the processor.
    """

    def __init__(
        self,
        agent_id: int,
        spec: TaskSpec,
        sampling: SamplingSettings,
        networks: NetworkSettings,
        state_size: int = 0,
        device: torch.device = CPU,
    ) -> None:
        length, num_envs = shape = sampling.rollout_length, sampling.num_envs
        chunk_length = networks.chunk_length if state_size else 1
        self._length = length
        self._device = device
        self._chunk_length = chunk_length
        self._starts = np.zeros(shape, dtype=bool)
        self._states = np.zeros((length // chunk_length, num_envs, state_size), dtype=np.float32)
        self._observations = np.zeros((*shape, spec.observation_sizes[agent_id]), dtype=np.float32)
        self._joint_actions = np.zeros((*shape, spec.joint_action_width), dtype=np.float32)
        self._rewards = np.zeros(shape, dtype=np.float32)
        self._reward_scale = np.ones(1, dtype=np.float32)
        self._terminated = np.zeros(shape, dtype=bool)
        self._truncated = np.zeros(shape, dtype=bool)
        self._masks: np.ndarray | None = None
        self._final_observations: dict[int, np.ndarray] = {}
        self._last_observation = np.zeros((num_envs, spec.observation_sizes[agent_id]), dtype=np.float32)
        self._t = np.zeros(num_envs, dtype=np.int64)

    def t(self, first: int = 0) -> int:
        """Number of steps whose action is recorded, in environment `first`."""
        return int(self._t[first])

    @property
    def complete(self) -> bool:
        """Whether the actions of all steps are recorded, in all environments."""
        return bool((self._t == self._length).all())

    def discard(self) -> None:
        """Discard the samples of an abandoned iteration."""
        self._t[...] = 0
        self._final_observations.clear()

    def add_observation(self, step: AgentStep, state: Tensor, first: int = 0) -> None:
        """Record the agent's observation before it acts.

        Args:
            step: of all environments, or of some that follow one another.
            state: (B, S), the policy's recurrent states then, of all environments.
            first: the first environment of `step`.
        """
        rows, t = _rows(step, first), self.t(first)
        if t == self._length and self.complete:
            self.discard()
            t = 0
        self._observations[t, rows] = step.observation
        self._starts[t, rows] = step.ended
        if self._states.shape[2] and t % self._chunk_length == 0:
            self._states[t // self._chunk_length, rows] = state.numpy()[rows]
        if step.action_mask is not None:
            if self._masks is None:
                self._masks = np.ones((*self._rewards.shape, step.action_mask.shape[-1]), dtype=bool)
            self._masks[t, rows] = step.action_mask
        elif self._masks is not None:
            self._masks[t, rows] = True
        self._t[rows] += 1

    def add_outcome(self, step: AgentStep, first: int = 0) -> None:
        """Record joint action, reward, termination and truncation of a step; arguments as of `add_observation`."""
        rows, t = _rows(step, first), self.t(first) - 1
        self._rewards[t, rows] = step.reward
        self._reward_scale = step.reward_scale
        self._terminated[t, rows] = step.terminated
        self._truncated[t, rows] = step.truncated
        self._joint_actions[t, rows] = step.joint_action
        if step.final_observation is not None:
            whole = self._final_observations.setdefault(t, np.zeros_like(self._last_observation))
            whole[rows] = step.final_observation
        self._last_observation[rows] = step.observation

    @property
    def observations(self) -> Tensor:
        """Own observations, (M, observation size)."""
        return self._moved(self._observations).flatten(0, 1)

    @property
    def joint_actions(self) -> Tensor:
        """Joint actions, (M, width)."""
        return self._moved(self._joint_actions).flatten(0, 1)

    @property
    def action_masks(self) -> Tensor | None:
        """Action masks, (M, n), or None where every action is always available."""
        return None if self._masks is None else self._moved(self._masks).flatten(0, 1)

    @property
    def sequences(self) -> Sequences | None:
        """Sequence structure of the samples for a recurrent policy; None for a feedforward one."""
        return self._sequences(self._moved(self._states))

    def critic_sequences(self, values: Values) -> Sequences | None:
        """Sequence structure of the samples for a recurrent critic, whose states along them are in `values`."""
        return self._sequences(values.states[: -1 : self._chunk_length])

    def values(self, critic: Critic, state: Tensor) -> Values:
        """The critic's values, from its recurrent state before the first observation, (B, S)."""
        values, states = critic.values(self._moved(self._observations), self._moved(self._starts), state)
        last = _value_after(critic, self._moved(self._last_observation), states[-1])
        following = torch.cat([values[1:], last.unsqueeze(0)])
        if times := sorted(self._final_observations):
            finals = self._moved(np.concatenate([self._final_observations[t] for t in times]))
            rows = self._moved(np.array(times))
            final = _value_after(critic, finals, states[1:][rows].flatten(0, 1)).view(len(times), -1)
            ended = self._moved(self._terminated[times] | self._truncated[times])
            following[rows] = torch.where(ended, final, following[rows])
        return Values(values, following, states)

    def advantages(self, values: Values, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
        """GAE of the scaled rewards by a critic's values, and the returns it implies (advantage + value). Each (M,)."""
        rewards = torch.from_numpy(self._rewards / self._reward_scale)
        ends = torch.from_numpy(self._terminated), torch.from_numpy(self._truncated)
        current, following = values.current.cpu(), values.following.cpu()
        advantages = generalized_advantages(rewards, current, following, *ends, gamma, gae_lambda)
        return advantages.flatten().to(self._device), (advantages + current).flatten().to(self._device)

    def _sequences(self, states: Tensor) -> Sequences | None:
        return Sequences(self._moved(self._starts), states) if states.shape[2] else None

    def _moved(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _value_after(critic: Critic, observations: Tensor, states: Tensor) -> Tensor:
    """V of one more observation of each of E episodes. Shapes (E, O), (E, S) -> (E,)."""
    goes_on = observations.new_zeros(1, len(observations), dtype=torch.bool)
    return critic.values(observations.unsqueeze(0), goes_on, states)[0][0]


def _rows(step: AgentStep, first: int) -> slice:
    return slice(first, first + len(step.reward))
