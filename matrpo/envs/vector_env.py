"""The interface of every task: B vectorised environments of N agents, stepped together.

Sizes: O_q of an observation of agent q, S of the state, W of the joint action; n: number of discrete actions,
or the sum of its factors' in a `MultiDiscrete`, whose masks lie side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from matrpo.envs.masks import playable
from matrpo.errors import ConfigError
from matrpo.spaces import Box, TaskSpec


@dataclass(frozen=True)
class ActorInput:
    """The input of a policy in b environments.

    Attributes:
        observation: (b, O) float32.
        action_mask: (b, n) booleans, the actions that are allowed; None if all are.
        ended: (b,) booleans, where the observation does not continue the episode before: nothing is remembered of it.
    """

    observation: np.ndarray
    action_mask: np.ndarray | None
    ended: np.ndarray


@dataclass
class VectorStep:
    """One transition of all B environments; the arrays are fresh: the environment never writes to them again.

    Attributes:
        observations: for each agent, (B, O_q) float32; where an episode ended, the first of the next one.
        rewards: (B, N) float64, in the task's own unit.
        terminated: (B, N) bool, true from the step at which the task ended for the agent to the episode's last.
        truncated: (B, N) bool, true where a time limit cut the agent's episode.
        final_observations: None if no episode ended, else for each agent (B, O_q) float32: the last
            observation of the episodes that ended, and `observations` in the other rows. An agent that is cut off
            before the others may have one too.
        final_state: (B, S) float32, `VectorEnv.state` of the episodes that ended at their last step, in the other rows
            that of now. None if no episode ended, or if the task's state is its observations side by side.
        statistics: (B, K) float64, the numbers that `VectorEnv.statistics` names, of the episodes that ended; the
            other rows mean nothing. None if there are no such numbers or no episode ended.
        alive: (B, N) bool, agents that are in the episode after this step, those that it brought included; None if
            these are all that it did not end for.
    """

    observations: list[np.ndarray]
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final_observations: list[np.ndarray] | None
    final_state: np.ndarray | None = None
    statistics: np.ndarray | None = None
    alive: np.ndarray | None = None

    @cached_property
    def ended(self) -> np.ndarray:
        """Environments whose episode ended with this step: no agent is in it any more. (B,) bool."""
        if self.alive is None:
            ended: np.ndarray = (self.terminated | self.truncated).all(axis=1)
        else:
            ended = ~np.any(self.alive, axis=1)
        return ended

    @cached_property
    def cut(self) -> np.ndarray:
        """Environments whose episode ended with this step, for one agent at least by a time limit alone. (B,) bool."""
        cut: np.ndarray = self.ended & (self.truncated & ~self.terminated).any(axis=1)
        return cut


class VectorEnv(ABC):
    """B copies of a task, stepped together; each is reset automatically in the step that ends its episode.

    Attributes:
        spec: the agents and their spaces.
        num_envs: B.
        statistics: names of what the task says of an episode besides its return and length; metrics show their means.
        trusted: whether it is matrpo's own, so that nobody needs to check at every step what it hands over.
    """

    spec: TaskSpec
    num_envs: int
    statistics: tuple[str, ...] = ()
    trusted: ClassVar[bool] = False

    @abstractmethod
    def reset(self) -> list[np.ndarray]:
        """Begin a new episode in every environment; each agent's observation, (B, O_q) float32."""

    @abstractmethod
    def step(self, joint_action: np.ndarray) -> VectorStep:
        """Advance every environment by one step.

        Args:
            joint_action: (B, W) float32, laid out as `TaskSpec.action_slices` says and in the task's own units
                (`TaskSpec.task_units` makes them of a policy's); what is beyond the bounds of a `Box` is clipped.

        Raises:
            ValueError: the array's shape is another, or an index lies outside its discrete space.
            RuntimeError: `reset` or `load_state_dict` was never called.
        """

    def number_from(self, first: int) -> None:  # noqa: ARG002
        """Become a shard of a larger batch, whose environments `first` to `first` + B - 1 have the very same episodes.

        It is called before `reset`.

        Raises:
            ConfigError: this task's episodes are not a function of the environment's number.
        """
        raise ConfigError(
            f"task {self.spec.name!r} cannot be split: expected 1 for 'env_servers', and no 'env_workers'"
        )

    def limit_workers(self, most: int) -> None:  # noqa: B027 (most tasks have none)
        """Limit the number of worker processes that step the environments; it is called before `reset`."""

    def limit_episodes(self, steps: int) -> None:  # noqa: ARG002
        """Cut episodes off, by truncation, after so many steps; it is called before `reset`.

        Raises:
            ConfigError: this task's episodes end by themselves.
        """
        raise ConfigError(f"task {self.spec.name!r} ends its episodes itself: leave 'episode_length' out")

    @abstractmethod
    def observe(self) -> list[np.ndarray]:
        """The current observations again, without a step: for each agent, (B, O_q) float32."""

    def state(self) -> np.ndarray:
        """The global state, input of central critics, (B, S) float32: all observations unless the task overrides it."""
        return np.concatenate(self.observe(), axis=1)

    def agent_states(self, state: np.ndarray, observations: list[np.ndarray]) -> list[np.ndarray]:
        """The global state as the input of each agent's centralised critic, if critics differ between agents.

        Args:
            state: (B, S) float32, from `state` or `VectorStep.final_state`.
            observations: for each agent, (B, O_q) float32, at the same step.

        Returns:
            For each agent, (B, S_q) float32: the same `state` for all, unless the task knows better.
        """
        return [state] * len(observations)

    def action_masks(self) -> list[np.ndarray | None]:
        """For each agent its allowed actions in the current state, (B, n) bool; None if all always are.

        Where none is allowed, the agent can only wait: it does nothing, which is written as action 0.
        """
        return [None] * self.spec.num_agents

    def present(self) -> np.ndarray | None:
        """Agents that are in the current episodes, (B, N) bool; None if all are from the first step until they end."""
        return None

    def default_actions(self) -> np.ndarray:
        """A joint action for agents whose process is gone, (B, W) float32 in policies' units: zeros.

        A task overrides it where doing nothing harms those that are left.
        """
        return self.spec.noop(self.num_envs)

    def actor_inputs(self, observations: list[np.ndarray], ended: np.ndarray) -> list[ActorInput]:
        """The current input of each agent's policy.

        Args:
            observations: the current ones.
            ended: (B, N) booleans, agents whose episode before is over.
        """
        columns = np.ascontiguousarray(ended.T)
        pairs = zip(self.action_masks(), self.spec.action_spaces, strict=True)
        masks = [playable(mask, space) for mask, space in pairs]
        return [ActorInput(*parts) for parts in zip(observations, masks, columns, strict=True)]

    def state_dict(self) -> dict[str, np.ndarray] | None:
        """All that the future depends on besides the constructor's arguments; None if it cannot be saved."""
        return None

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Continue exactly where `state_dict` was taken, from an environment built with the same arguments.

        Raises:
            ValueError: the state belongs to another task, number of agents or number of environments.
            NotImplementedError: this task's state cannot be saved.
        """
        raise NotImplementedError(f"the state of {self.spec.name} cannot be saved")

    def render(self) -> np.ndarray:
        """A picture of environment 0 now: (H, W, 3) uint8, RGB.

        Raises:
            ConfigError: this task cannot be drawn.
        """
        raise ConfigError(f"task {self.spec.name!r} cannot be drawn")

    def close(self) -> None:  # noqa: B027 (most tasks hold nothing)
        """Release what the environments hold; calling it twice is harmless."""

    def _check_action(self, joint_action: np.ndarray) -> None:
        expected = (self.num_envs, self.spec.joint_action_width)
        if joint_action.shape != expected:
            raise ValueError(f"joint action of {self.spec.name} has shape {joint_action.shape}, not {expected}")
        columns, sizes = self._index_columns
        if not len(sizes):
            return
        indices = joint_action if len(sizes) == expected[1] else joint_action[:, columns]
        if not self._allowed(indices, sizes):
            raise ValueError(f"joint action of {self.spec.name} holds an index outside its action space")

    def _allowed(self, indices: np.ndarray, sizes: np.ndarray) -> bool:
        """Whether every index, (B, W), is at least 0 and below the size of its column's space, (W,) float32."""
        # The least index is NaN if any is, and then not at least 0.
        return bool(indices.min() >= 0 and (indices < sizes).all())

    @cached_property
    def _index_columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Columns of the joint action that hold indices, and the size of each one's space."""
        pairs = zip(self.spec.action_slices, self.spec.action_spaces, strict=True)
        discrete = [
            (part.start + factor, size)
            for part, space in pairs
            if not isinstance(space, Box)
            for factor, size in enumerate(space.sizes)
        ]
        columns, sizes = np.array(discrete, dtype=np.intp).reshape(-1, 2).T
        return columns, sizes.astype(np.float32)
