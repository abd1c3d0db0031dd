"""The environment that all agents share, as an environment server steps it, without sockets and timeouts.

Steps by agent, the common reward scale, statistics of episodes. N: agents; O, W: sizes of observation, joint action.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from matrpo.envs.masks import of_the_present, playable
from matrpo.envs.reward_scale import RewardScale
from matrpo.envs.vector_env import ActorInput, VectorEnv, VectorStep
from matrpo.errors import ConfigError

_LOG = logging.getLogger(__name__)


@dataclass
class AgentStep:
    """One step of all B environments as one agent receives it.

    Attributes:
        observation: (B, O) float32, of the agent itself; where an episode ended, of the next one.
        reward: (B,) float32, the agent's own, in the task's own unit.
        reward_scale: (1,) float32, what all agents divide their rewards by: a property of the task that includes this
            step and nothing later. An agent applies the latest one to a whole iteration, so that the scale does not
            change between its samples.
        terminated: (B,) bool, the task ended for this agent or, where the reward is the team's, for the team.
        truncated: (B,) bool, a time limit, or a reset of all environments, cut that episode.
        final_observation: if an episode ended, (B, O) float32: its last observation in those rows,
            `observation` in the others; else None.
        joint_action: (B, W) float32, what all agents did in the step that led here, in policies' units.
        action_mask: (B, n) bool, the actions allowed next; None if all always are.
        moments: (B, 3) float64 at the end of an iteration, if these are a part of all environments: what the scale is
            made of (`RewardScale.moments`). It is then `scale_of` the moments of all parts, not `reward_scale`.
        begins: (B,) bool, where the agent's own part in an episode has ended, if that is not where the team's has.
    """

    observation: np.ndarray
    reward: np.ndarray
    reward_scale: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final_observation: np.ndarray | None
    joint_action: np.ndarray
    action_mask: np.ndarray | None
    moments: np.ndarray | None = None
    begins: np.ndarray | None = None

    @property
    def ended(self) -> np.ndarray:
        """(B,) bool, the agent's episode before `observation` terminated or was truncated: reset its memory."""
        ended: np.ndarray = self.terminated | self.truncated if self.begins is None else self.begins
        return ended

    @property
    def seen(self) -> ActorInput:
        """The next input of the agent's policy."""
        return ActorInput(self.observation, self.action_mask, self.ended)


class SharedEnvironment:
    """Splits a `VectorEnv`'s steps by agent, and tracks the reward scale and the returns of episodes.

    Args:
        env: the batch of environments.
        gamma: discount of the returns that the reward scale is measured on.
        reward_scaling: whether rewards are scaled at all; if not, the scale is 1.
        reward: `own`, each agent receives what the task pays it; `shared`, every agent receives the sum of that; or
            `one-agent`, the first agent receives the sum and the others nothing, as the MATRPO paper has it in its
            section VI.C. Team returns are the same.
        absent_idle: whether an agent that is not in the episode is told by its action mask that it can only do nothing,
            so that a policy that learns from all samples learns nothing of what it chose there.

    Attributes:
        last: the latest step, as the task made it.
        present: (B, N) bool, agents that are in the episodes now.
        waiting: (B, N) bool, agents that their masks allow nothing now.
    """

    def __init__(
        self, env: VectorEnv, gamma: float, reward_scaling: bool, reward: str = "own", absent_idle: bool = False
    ) -> None:
        self.env = env
        self.spec = env.spec
        self._scale = RewardScale(gamma, env.num_envs) if reward_scaling else None
        self._reward = reward
        self._absent_idle = absent_idle
        self.present = np.ones((env.num_envs, env.spec.num_agents), dtype=bool)
        self.last: VectorStep | None = None
        self.waiting = np.zeros((env.num_envs, env.spec.num_agents), dtype=bool)
        self._returns = np.zeros((env.num_envs, env.spec.num_agents))
        self._lengths = np.zeros(env.num_envs, dtype=np.int64)
        self._finished: list[np.ndarray] = []
        self._steps = 0

    @property
    def reward_scale(self) -> float:
        """The scale that agents divide their rewards by now."""
        return self._scale.value if self._scale else 1.0

    @property
    def moments(self) -> np.ndarray:
        """(B, 3), the running moments of the reward scale: see `RewardScale.moments`."""
        return self._scale.moments if self._scale else np.zeros((self.env.num_envs, 3))

    def reset(self) -> list[AgentStep]:
        """Begin a new episode in every environment, dropping the unfinished ones.

        Returns:
            One `AgentStep` for each agent, with zero reward and joint action: the episodes before are truncated.
        """
        observations = self.env.reset()
        self._returns[...] = 0.0
        self._lengths[...] = 0
        if self._scale:
            self._scale.forget_episodes()
        self._see_who_is_there(np.ones_like(self.present))
        return self._initial(observations, truncated=True)

    def step(self, joint_action: np.ndarray) -> list[AgentStep]:
        """Advance all environments.

        Args:
            joint_action: (B, W) float32 in policies' units (`TaskSpec.task_units`); it is copied.

        Returns:
            One `AgentStep` for each agent. The reward scale counts everything up to this step's rewards.
        """
        joint_action = np.array(joint_action, dtype=np.float32)
        result = self.env.step(self.spec.task_units(joint_action))
        self.last = result
        ended = result.ended
        self._see_who_is_there((self.present & ~(result.terminated | result.truncated)) | ended[:, np.newaxis])
        rewards = _paid_to_the_first(result.rewards) if self._reward == "one-agent" else result.rewards
        if self._scale:
            self._scale.update(team_rewards(rewards), ended)
        self._count(rewards, ended, result.statistics)
        if self._reward == "shared":
            rewards = np.repeat(team_rewards(rewards)[:, np.newaxis], rewards.shape[1], axis=1)
        steps = self._split(
            result.observations,
            rewards,
            result.terminated,
            result.truncated,
            result.final_observations,
            joint_action,
        )
        return (
            steps if self._reward == "own" else [_of_the_team(step, ended & ~result.cut, result.cut) for step in steps]
        )

    def take_metrics(self) -> dict[str, Any]:
        """Statistics of the episodes that ended since the last call; see `episode_metrics`."""
        return episode_metrics(self.take_episodes(), self.spec.agents, self.env.statistics, self.reward_scale)

    def take_episodes(self) -> np.ndarray:
        """The episodes that ended since the last call, as rows of `episode_metrics`."""
        episodes = self._episodes()
        self._finished, self._steps = [], 0
        return episodes

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything that later steps and metrics depend on; of a task whose state cannot be saved, its scale alone."""
        state = {f"scale.{key}": value for key, value in self._scale.state_dict().items()} if self._scale else {}
        env_state = self.env.state_dict()
        if env_state is None:
            return state
        state |= {f"env.{key}": value for key, value in env_state.items()}
        state["alive"] = self.present.copy()
        state["returns"] = self._returns.copy()
        state["lengths"] = self._lengths.copy()
        state["episodes"] = self._episodes()
        return state

    def resume(self, state: dict[str, np.ndarray]) -> list[AgentStep]:
        """Continue exactly where `state_dict` was taken; with new episodes if the task's state cannot be saved.

        Raises:
            ConfigError: the state is of another number of environments, or another setting of `reward_scaling`.
            ValueError: the state belongs to another task.
        """
        self._check_size(state)
        if not holds_episodes(state):
            _LOG.warning("the state of %s cannot be saved: new episodes begin", self.spec.name)
            self.load_reward_scale(state)
            return self.reset()
        if any(key.startswith("scale.") for key in state) != (self._scale is not None):
            raise ConfigError("the saved state was taken with another setting of 'reward_scaling'")
        self.env.load_state_dict(_part(state, "env."))
        if self._scale:
            self._scale.load_state_dict(_part(state, "scale."))
        self._returns = state["returns"].copy()
        self._lengths = state["lengths"].copy()
        if "alive" in state:
            self.present = state["alive"].copy()
        else:  # of a version that did not save it
            self._see_who_is_there(np.ones_like(self.present))
        if "episodes" in state:  # else of a version that saved them otherwise, but never had any to save
            self._finished = [state["episodes"].copy()]
        return self._initial(self.env.observe(), truncated=False)

    def load_reward_scale(self, state: dict[str, np.ndarray]) -> None:
        """Restore the reward scale's statistics from `state_dict`, and nothing else.

        Raises:
            ConfigError: the state is of another number of environments.
        """
        self._check_size(state)
        if self._scale and (moments := _part(state, "scale.")):
            self._scale.load_state_dict(moments)

    def _check_size(self, state: dict[str, np.ndarray]) -> None:
        for key in ("returns", "scale.returns"):
            if key in state and len(state[key]) != self.env.num_envs:
                raise ConfigError(
                    f"the saved state is of {len(state[key])} environments, expected {self.env.num_envs}: a run's "
                    "'num_envs' cannot change"
                )

    def _see_who_is_there(self, default: np.ndarray) -> None:
        """Note which agents are in the episodes now; those of `default` if the task does not say."""
        present = self.env.present()
        self.present = default if present is None else present

    def _count(self, rewards: np.ndarray, ended: np.ndarray, statistics: np.ndarray | None) -> None:
        self._returns += rewards
        self._lengths += 1
        if ended.any():
            [envs] = np.nonzero(ended)
            own = np.empty((len(envs), 0)) if statistics is None else statistics[ended]
            steps = np.full(len(envs), self._steps)
            self._finished.append(np.column_stack([steps, envs, self._lengths[ended], self._returns[ended], own]))
            self._returns[ended] = 0.0
            self._lengths[ended] = 0
        self._steps += 1

    def _episodes(self) -> np.ndarray:
        width = 3 + self.spec.num_agents + len(self.env.statistics)
        return np.concatenate([np.empty((0, width)), *self._finished])

    def _initial(self, observations: list[np.ndarray], truncated: bool) -> list[AgentStep]:
        shape = (self.env.num_envs, self.spec.num_agents)
        rewards, terminated = np.zeros(shape), np.zeros(shape, dtype=bool)
        noop = self.spec.noop(self.env.num_envs)
        return self._split(observations, rewards, terminated, np.full(shape, truncated), None, noop)

    def _split(
        self,
        observations: list[np.ndarray],
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        final_observations: list[np.ndarray] | None,
        joint_action: np.ndarray,
    ) -> list[AgentStep]:
        masks = self.env.action_masks()
        self.waiting[...] = False
        for q, mask in enumerate(masks):
            if mask is not None:
                self.waiting[:, q] = ~mask.any(axis=1)
        if self._absent_idle:
            columns = zip(masks, self.spec.action_spaces, self.present.T, strict=True)
            masks = [of_the_present(mask, space, there) for mask, space, there in columns]
        scale = np.array([self.reward_scale], dtype=np.float32)
        # One copy of all agents' rows: three of each would be most of a small batch's time here.
        paid = np.array(rewards.T, dtype=np.float32, order="C")
        over, cut = terminated.T.copy(), truncated.T.copy()
        return [
            AgentStep(
                observation=observations[q],
                reward=paid[q],
                reward_scale=scale,
                terminated=over[q],
                truncated=cut[q],
                final_observation=final_observations[q] if final_observations else None,
                joint_action=joint_action,
                action_mask=playable(masks[q], self.spec.action_spaces[q]),
            )
            for q in range(self.spec.num_agents)
        ]


def holds_episodes(state: dict[str, np.ndarray]) -> bool:
    """Whether `SharedEnvironment.state_dict` has running episodes in it, not only the reward scale."""
    return "returns" in state


def episode_metrics(
    episodes: np.ndarray, agents: Sequence[str], statistics: Sequence[str], reward_scale: float
) -> dict[str, Any]:
    """Statistics of some episodes as plain JSON values.

    Returns are undiscounted and in the task's own unit; a team return is summed over agents. Every key is always there;
    statistics of no episode at all are None. What the task itself says of its episodes is averaged over them.

    Args:
        episodes: (E, 3 + N + K), of each the number of the step that it ended with, its environment, its length, its
            returns, and what the task says of it.
        agents: the names of the N agents.
        statistics: the names of what the task says, K of them (`VectorEnv.statistics`).
        reward_scale: what agents divide their rewards by.
    """
    lengths, returns, own = np.split(episodes[:, 2:], [1, 1 + len(agents)], axis=1)
    returns = np.ascontiguousarray(returns)
    team = returns.sum(axis=1)
    return {
        "episodes": len(team),
        "team_return_mean": _statistic(np.mean, team),
        "team_return_min": _statistic(np.min, team),
        "team_return_max": _statistic(np.max, team),
        "team_return_std": _statistic(np.std, team),
        "agent_return_mean": {name: _statistic(np.mean, returns[:, q]) for q, name in enumerate(agents)},
        "episode_length_mean": _statistic(np.mean, lengths),
        **{name: _statistic(np.mean, own[:, k]) for k, name in enumerate(statistics)},
        "reward_scale": reward_scale,
    }


def _of_the_team(step: AgentStep, terminated: np.ndarray, truncated: np.ndarray) -> AgentStep:
    """An agent's step where the reward is the team's: what it is paid for ends with the team's episode, not its own."""
    begins = None if np.array_equal(step.ended, terminated | truncated) else step.ended
    return replace(step, terminated=terminated, truncated=truncated, begins=begins)


def team_rewards(rewards: np.ndarray) -> np.ndarray:
    """Sum of all agents' rewards, (B, N) -> (B,), in the order of their ids: to the bit the same for any B."""
    summed: np.ndarray = np.add.accumulate(rewards, axis=1)[:, -1]
    return summed


def _paid_to_the_first(rewards: np.ndarray) -> np.ndarray:
    paid = np.zeros_like(rewards)
    paid[:, 0] = team_rewards(rewards)
    return paid


def _statistic(function: Callable[[np.ndarray], Any], values: np.ndarray) -> float | None:
    return float(function(values)) if len(values) else None


def _part(state: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
