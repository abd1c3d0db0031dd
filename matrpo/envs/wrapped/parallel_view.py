"""Any task as a PettingZoo parallel environment, for training with other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from matrpo.envs.registry import make_env, task_spec
from matrpo.envs.vector_env import VectorEnv
from matrpo.spaces import ActionSpace, Box, Discrete, MultiDiscrete

_Dicts = dict[str, Any]


class ParallelView(ParallelEnv[str, Any, Any]):  # type: ignore[misc]
    """One environment of a task, as a PettingZoo `ParallelEnv`.

    Observations are float32 vectors, or, for agents whose actions are masked, mappings of `observation` and
    `action_mask` (of a `MultiDiscrete`, its factors' masks side by side). An agent that terminates before the others
    leaves at once.

    Args:
        make: builds one environment (B = 1), given a seed.
        render_mode: `rgb_array`, or None.
    """

    def __init__(self, make: Callable[[int], VectorEnv], render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self._make = make
        self._env = make(0)
        self._env.reset()
        self._masked = [mask is not None for mask in self._env.action_masks()]
        spec = self._env.spec
        self.metadata = {"name": spec.name, "render_modes": ["rgb_array"]}
        self.possible_agents = list(spec.agents)
        self.agents: list[str] = []
        self._ids = {agent: q for q, agent in enumerate(spec.agents)}
        self.action_spaces = {agent: _action_space(spec.action_spaces[q]) for agent, q in self._ids.items()}
        self.observation_spaces = {agent: self._observation_space(q) for agent, q in self._ids.items()}

    def reset(self, seed: int | None = None, options: _Dicts | None = None) -> tuple[_Dicts, _Dicts]:  # noqa: ARG002
        """Begin an episode: the next one, or the first one of `seed`; `options` are ignored."""
        if seed is not None:
            self._env.close()
            self._env = self._make(seed)
        observations = self._env.reset()
        self.agents = list(self.possible_agents)
        return self._seen(self.agents, observations), {agent: {} for agent in self.agents}

    def step(self, actions: _Dicts) -> tuple[_Dicts, _Dicts, _Dicts, _Dicts, _Dicts]:
        """Advance by one step, by the actions of the agents that are still in the episode."""
        joint_action = self._env.spec.noop(1)
        for agent, action in actions.items():
            joint_action[0, self._env.spec.action_slices[self._ids[agent]]] = action
        step = self._env.step(joint_action)
        acting = self.agents
        last = step.observations if step.final_observations is None else step.final_observations
        terminations = {agent: bool(step.terminated[0, self._ids[agent]]) for agent in acting}
        truncations = {agent: bool(step.truncated[0, self._ids[agent]]) for agent in acting}
        rewards = {agent: float(step.rewards[0, self._ids[agent]]) for agent in acting}
        self.agents = [agent for agent in acting if not (terminations[agent] or truncations[agent])]
        return self._seen(acting, last), rewards, terminations, truncations, {agent: {} for agent in acting}

    def observation_space(self, agent: str) -> Any:
        """The space of an agent's observations."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        """The space of an agent's actions."""
        return self.action_spaces[agent]

    def render(self) -> np.ndarray | None:
        """A picture, (H, W, 3) uint8, if `render_mode` says so."""
        return self._env.render() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Release what the environment holds."""
        self._env.close()

    def _observation_space(self, q: int) -> Any:
        spec = self._env.spec
        vectors = spaces.Box(-np.inf, np.inf, (spec.observation_sizes[q],), np.float32)
        space = spec.action_spaces[q]
        if not self._masked[q] or isinstance(space, Box):
            return vectors
        return spaces.Dict({"observation": vectors, "action_mask": spaces.MultiBinary(space.parameters)})

    def _seen(self, agents: list[str], observations: list[np.ndarray]) -> _Dicts:
        masks = self._env.action_masks()
        seen: _Dicts = {}
        for agent in agents:
            q = self._ids[agent]
            mask = masks[q]
            vector = observations[q][0]
            seen[agent] = vector if mask is None else {"observation": vector, "action_mask": mask[0].astype(np.int8)}
        return seen


def parallel_env(task: str, num_agents: int | None = None, render_mode: str | None = None) -> ParallelView:
    """One environment of a task as a PettingZoo parallel environment.

    Args:
        task: its name, as `matrpo list tasks` shows it.
        num_agents: N, or None for the task's default.
        render_mode: `rgb_array`, or None.

    Raises:
        ConfigError: the task is unknown, cannot have so many agents, or needs what is not installed.
    """
    num_agents = task_spec(task, num_agents).num_agents
    return ParallelView(lambda seed: make_env(task, num_agents, 1, seed), render_mode)


def _action_space(space: ActionSpace) -> Any:
    if isinstance(space, Discrete):
        return spaces.Discrete(space.n)
    if isinstance(space, MultiDiscrete):
        return spaces.MultiDiscrete(list(space.sizes))
    low, high = (np.array(bounds, dtype=np.float32) for bounds in (space.low, space.high))
    return spaces.Box(low, high, (space.size,), np.float32)
