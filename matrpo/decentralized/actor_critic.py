"""The actor-critic of one agent: policy, critic and rollout, how it acts, and what is saved of it.

How it is updated is a subclass's: MATRPO's in `agent.py`, that of a baseline in `matrpo/algorithms/dnamarl.py`. An
iteration is `act` T times (T steps in B environments: M samples), `prepare_update`, `step` at each activation of a
link, and `finish_update`. Links and sockets are unknown here: `step` is given the consensus term.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matrpo import random_streams
from matrpo.decentralized.shared_samples import SharedSamples
from matrpo.envs.shared import AgentStep
from matrpo.errors import ConfigError
from matrpo.networks.critic import Critic
from matrpo.networks.device import ActingNetworks
from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.state import load_module, load_optimizer, module_tensors, optimizer_tensors, to_arrays, to_tensors
from matrpo.sampling.acting import Actor
from matrpo.sampling.draws import Draws
from matrpo.sampling.rollout import Rollout, Values
from matrpo.settings.config import Config
from matrpo.spaces import TaskSpec


class ActorCritic(ABC):
    """Policy, critic, optimiser state and rollout of agent q of N.

    Args:
        agent_id: q, from 0.
        spec: the task's observation sizes and action spaces.
        config: the run's settings.
    """

    def __init__(self, agent_id: int, spec: TaskSpec, config: Config) -> None:
        self.agent_id = agent_id
        self.spec = spec
        self.config = config
        self._generator = torch.Generator().manual_seed(random_streams.learner(config.seed, agent_id))
        self._device = device = torch.device(config.device)
        self.policy = self._make_policy().to(device)
        self.critic = Critic(spec.observation_sizes[agent_id], config, config, self._generator, device)
        self._acting = ActingNetworks([self.policy])
        self._actor = Actor(self._acting.networks[0], config.num_envs)
        self._critic_state = self.critic.initial_state(config.num_envs)
        self._rollout = Rollout(agent_id, spec, config, config, self.policy.network.state_size, device)
        self._draws = Draws(self._generator)

    @abstractmethod
    def _make_policy(self) -> JointPolicy:
        """A fresh policy, whose own head acts."""

    @abstractmethod
    def prepare_update(self, step: AgentStep, iteration: int) -> None:
        """Close the rollout, and compute all that the local steps need.

        Args:
            step: the outcome of the iteration's last action, of all environments.
            iteration: its number, from 1.
        """

    @abstractmethod
    def step(self, term: np.ndarray, shared: SharedSamples) -> np.ndarray:
        """The local step for a given consensus term.

        Args:
            term: what the links ask for, float32 of `exchange_shape` (`Config`); see `Peer`.
            shared: the m samples that the consensus is about.

        Returns:
            What the agent sends, likewise.
        """

    @abstractmethod
    def finish_update(self) -> dict[str, float]:
        """Change the policy as was agreed on; returns learning metrics."""

    @property
    def rollout(self) -> Rollout:
        """The rollout of the iteration."""
        return self._rollout

    def act(self, step: AgentStep, first: int = 0) -> np.ndarray:
        """Record the transition that ended and the new observation, and sample the next actions.

        The environments may be asked for in parts, each going ahead at its own pace within the iteration: actions are
        the same as if they were asked for together.

        Args:
            step: the outcome of the previous action (ignored at an iteration's first step) and the observation, of all
                environments or of b that follow one another.
            first: the first of them.

        Returns:
            (b, width of this agent's action), float32.
        """
        rollout = self._rollout
        if rollout.complete:
            self._draws.begin()
        if 0 < rollout.t(first) < self.config.rollout_length:
            rollout.add_outcome(step, first)
        rollout.add_observation(step, self._actor.state, first)
        generator = self._draws.of(rollout.t(first) - 1)
        return self._actor.act(step.seen, generator, False, first)

    def discard_rollout(self) -> None:
        """Discard the rollout of an abandoned iteration, and the recurrent states of its episodes.

        The next observation is the first of another iteration, and what came before it need not be known.
        """
        self._rollout.discard()
        self._draws.begin()
        self._actor.state = torch.zeros_like(self._actor.state)
        self._critic_state = torch.zeros_like(self._critic_state)

    def state_dict(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Checkpoint state, all that the next iteration depends on: arrays, and meta data that identify their owner."""
        tensors = {"generator": self._generator.get_state()}
        tensors |= module_tensors("policy", self.policy) | module_tensors("critic", self.critic)
        tensors |= optimizer_tensors("optimizer", self.critic.optimizer)
        if self._critic_state.numel():
            tensors |= {"memory.policy": self._actor.state, "memory.critic": self._critic_state}
        return to_arrays(tensors), self._identity()

    def load_state_dict(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            ConfigError: the state is another agent's, another task's, or of networks of other sizes.
        """
        for key, value in self._identity().items():
            if meta.get(key) != value:
                raise ConfigError(f"checkpoint is for {key} {meta.get(key)!r}, this run has {value!r}")
        tensors = to_tensors(arrays)
        load_module("policy", self.policy, tensors)
        load_module("critic", self.critic, tensors)
        load_optimizer("optimizer", self.critic.optimizer, tensors)
        self._acting.refresh()
        self._generator.set_state(tensors["generator"])
        if self._critic_state.numel():
            self._actor.state = _like(self._actor.state, tensors.get("memory.policy"))
            self._critic_state = _like(self._critic_state, tensors.get("memory.critic")).to(self._device)

    def _identity(self) -> dict[str, Any]:
        return {
            "task": self.spec.name,
            "agent": self.agent_id,
            "agents": self.spec.num_agents,
            "observation_size": self.spec.observation_sizes[self.agent_id],
        }

    def _carry_over(self, values: Values, step: AgentStep) -> None:
        """Keep recurrent states for the next iteration, set to zero where the episode has ended."""
        ended = torch.from_numpy(step.ended).unsqueeze(1)
        self._critic_state = values.states[-1].masked_fill(ended.to(self._device), 0.0)
        self._actor.state = self._actor.state.masked_fill(ended, 0.0)


def _like(old: Tensor, new: Tensor | None) -> Tensor:
    if new is None or new.shape != old.shape:
        found = "nothing" if new is None else tuple(new.shape)
        raise ConfigError(f"checkpoint does not fit the networks of this run: it remembers {found}")
    return new
