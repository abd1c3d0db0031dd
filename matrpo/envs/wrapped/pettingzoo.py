"""Any PettingZoo parallel environment as a `VectorEnv`: B copies, stepped in turn in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from matrpo.envs import counter_rng
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.envs.wrapped.gymnasium_actions import converter
from matrpo.errors import ConfigError
from matrpo.spaces import TaskSpec

ParallelEnv = Any
"""A `pettingzoo.ParallelEnv`; PettingZoo is imported only when one is made."""


class PettingZooEnv(VectorEnv):
    """B copies of a PettingZoo parallel environment.

    Observations are flattened to float32. Copy b's episode e is reset with a seed that depends on (seed, b, e)
    alone. An agent that leaves before its episode ends receives zero observations and rewards from the next step
    on and keeps its flag until the end. Action masks are taken from `info["action_mask"]`, or from observations
    that are mappings of `observation` and `action_mask`. State cannot be saved: `state_dict` is None.

    Args:
        name: the task's name.
        make: builds a copy; to draw it, it is called with the keyword `render_mode="rgb_array"`.
        num_envs: B.
        seed: of the copies' resets.

    Raises:
        ConfigError: an agent's action or observation space cannot be used.
    """

    def __init__(self, name: str, make: Callable[..., ParallelEnv], num_envs: int, seed: int) -> None:
        self.num_envs = num_envs
        self._make = make
        self._seed = seed
        self._first = 0
        self._copies = [make() for _ in range(num_envs)]
        self._retired: list[ParallelEnv] = []
        first = self._copies[0]
        agents = tuple(first.possible_agents)
        self._converters = [converter(name, agent, first.action_space(agent)) for agent in agents]
        self._flatteners = [_Flattener(name, agent, first.observation_space(agent)) for agent in agents]
        self.spec = TaskSpec(
            name=name,
            agents=tuple(str(agent) for agent in agents),
            observation_sizes=tuple(flattener.size for flattener in self._flatteners),
            action_spaces=tuple(converter.space for converter in self._converters),
            episode_length=getattr(first.unwrapped, "max_cycles", None),
        )
        self._agents = {agent: q for q, agent in enumerate(agents)}
        self._episodes = np.full(num_envs, -1, dtype=np.int64)
        self._terminated = np.zeros((num_envs, len(agents)), dtype=bool)
        self._truncated = np.zeros((num_envs, len(agents)), dtype=bool)
        self._masks: list[np.ndarray | None] = [None] * len(agents)
        self._observations: list[np.ndarray] = []
        self._history: list[dict[Any, Any]] = []
        self._drawable = False

    def number_from(self, first: int) -> None:
        self._first = first

    def reset(self) -> list[np.ndarray]:
        self._observations = self._blank_observations()
        self._masks = self._blank_masks()
        for b in range(self.num_envs):
            self._reset_copy(b)
        return self.observe()

    def step(self, joint_action: np.ndarray) -> VectorStep:
        """Advance every copy by one step; `Box` actions are clipped to their bounds, and rounded if of integers."""
        self._check_action(joint_action)
        if not self._observations:
            raise RuntimeError("reset the environment before stepping it")
        self._observations = self._blank_observations()
        self._masks = self._blank_masks()
        rewards = np.zeros(self._terminated.shape)
        for b in range(self.num_envs):
            self._step_copy(b, joint_action[b], rewards[b])
        terminated, truncated = self._terminated.copy(), self._truncated.copy()
        result = VectorStep(self._observations, rewards, terminated, truncated, None)
        if result.ended.any():
            result.final_observations = self._observations
            self._observations = [array.copy() for array in self._observations]
            for ended in np.flatnonzero(result.ended):
                self._reset_copy(int(ended))
        result.observations = self.observe()
        return result

    def observe(self) -> list[np.ndarray]:
        return [array.copy() for array in self._observations]

    def action_masks(self) -> list[np.ndarray | None]:
        """Each agent's allowed actions, (B, n) bool; None for agents that were never given a mask."""
        return [None if mask is None else mask.copy() for mask in self._masks]

    def render(self) -> np.ndarray:
        """The task's own picture of copy 0: (H, W, 3) uint8.

        The first call replaces copy 0 by one that can draw, brought to its state by the same seed and actions.

        Raises:
            ConfigError: the task cannot draw itself.
        """
        if not self._drawable:
            self._make_drawable()
        return np.asarray(self._copies[0].render(), dtype=np.uint8)

    def close(self) -> None:
        for copy in self._copies + self._retired:
            copy.close()
        self._copies, self._retired = [], []

    def _step_copy(self, b: int, joint_action: np.ndarray, rewards: np.ndarray) -> None:
        copy = self._copies[b]
        actions = {agent: self._action(self._agents[agent], joint_action) for agent in copy.agents}
        if b == 0 and not self._drawable:
            self._history.append(actions)
        observations, rewarded, terminations, truncations, infos = copy.step(actions)
        for agent in actions:
            q = self._agents[agent]
            rewards[q] = rewarded[agent]
            self._terminated[b, q] = terminations[agent]
            self._truncated[b, q] = truncations[agent]
        if not copy.agents:
            self._terminated[b] |= ~self._truncated[b]
        self._receive(b, {agent: observations[agent] for agent in actions if agent in observations}, infos)

    def _reset_copy(self, b: int) -> None:
        self._episodes[b] += 1
        self._terminated[b] = False
        self._truncated[b] = False
        for array in self._observations:
            array[b] = 0.0
        for mask in self._masks:
            if mask is not None:
                mask[b] = True
        if b == 0:
            self._history = []
        observations, infos = self._copies[b].reset(seed=self._episode_seed(b))
        self._receive(b, observations, infos)

    def _receive(self, b: int, observations: dict[Any, Any], infos: dict[Any, Any]) -> None:
        for agent, observation in observations.items():
            q = self._agents[agent]
            self._observations[q][b] = self._flatteners[q](observation)
            allowed = infos.get(agent, {}).get("action_mask")
            if allowed is None and self._flatteners[q].masked:
                allowed = observation["action_mask"]
            # An agent that has ended may hold an empty mask, and needs none.
            if allowed is None or self._terminated[b, q] or self._truncated[b, q]:
                continue
            allowed = self._converters[q].mask(allowed)
            mask = self._masks[q]
            if mask is None:
                mask = self._masks[q] = np.ones((self.num_envs, len(allowed)), dtype=bool)
            mask[b] = allowed

    def _action(self, q: int, joint_action: np.ndarray) -> Any:
        return self._converters[q].value(joint_action[self.spec.action_slices[q]])

    def _make_drawable(self) -> None:
        if "rgb_array" not in self._copies[0].metadata.get("render_modes", ()):
            raise ConfigError(f"task {self.spec.name!r} has no render mode 'rgb_array' to make pictures with")
        drawable = self._make(render_mode="rgb_array")
        if self._episodes[0] >= 0:
            drawable.reset(seed=self._episode_seed(0))
            for actions in self._history:
                drawable.step(actions)
        # Closing the old copy now could close a display library under the new one.
        self._retired.append(self._copies[0])
        self._copies[0] = drawable
        self._history = []
        self._drawable = True

    def _episode_seed(self, b: int) -> int:
        words = counter_rng.bits(self._seed, np.array([self._first + b]), self._episodes[b : b + 1], draws=1)
        return int(words[0, 0] >> np.uint64(33))

    def _blank_observations(self) -> list[np.ndarray]:
        return [np.zeros((self.num_envs, size), dtype=np.float32) for size in self.spec.observation_sizes]

    def _blank_masks(self) -> list[np.ndarray | None]:
        return [None if mask is None else np.ones_like(mask) for mask in self._masks]


class _Flattener:
    """Turns one agent's observations into float32 vectors of `size` numbers.

    `masked`: they are mappings of `observation` and `action_mask`.
    """

    def __init__(self, task: str, agent: Any, space: Any) -> None:
        from gymnasium import spaces

        self.masked = isinstance(space, spaces.Dict) and set(space.spaces) == {"observation", "action_mask"}
        self._space = space["observation"] if self.masked else space
        if not self._space.is_np_flattenable:
            raise ConfigError(
                f"task {task!r}: the observations of agent {agent!r}, {self._space}, have no fixed length"
            )
        self.size = spaces.flatdim(self._space)
        self._flatten = spaces.flatten

    def __call__(self, observation: Any) -> np.ndarray:
        inner = observation["observation"] if self.masked else observation
        return np.asarray(self._flatten(self._space, inner), dtype=np.float32)
