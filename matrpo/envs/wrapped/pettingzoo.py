"""Any PettingZoo parallel environment as a `VectorEnv`: B copies, stepped in turn in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from matrpo.envs import counter_rng
from matrpo.envs.conformance.check import Wrong, kind_of
from matrpo.envs.masks import mask_size
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.envs.wrapped.gymnasium_actions import converter
from matrpo.envs.wrapped.observations import ObservationReader, one_number
from matrpo.errors import ConfigError
from matrpo.spaces import TaskSpec

ParallelEnv = Any
"""A `pettingzoo.ParallelEnv`, or what has its methods and `possible_agents`; PettingZoo itself is not needed."""


class PettingZooEnv(VectorEnv):
    """B copies of a PettingZoo parallel environment.

    Observations are flattened to float32. Copy b's episode e is reset with a seed that depends on (seed, b, e)
    alone. An agent that is not in the episode, since it left before or comes later, is terminated, and receives zero
    observations and rewards. The step with which it leaves has its own flags; the one that brings it, its first
    observation and mask. Action masks are taken from an `action_mask` in its info or its observation. State cannot be
    saved: `state_dict` is None.

    Args:
        name: the task's name.
        make: builds a copy; to draw it, it is called with the keyword `render_mode="rgb_array"`.
        num_envs: B.
        seed: of the copies' resets.

    Raises:
        ConfigError: an agent's action or observation space cannot be used, or two agents have one name.
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
        if len(set(map(str, agents))) < len(agents):
            raise ConfigError(f"task {name!r}: its possible_agents are {agents}: expected a name of its own for each")
        self._converters = [converter(name, agent, _asked(name, first.action_space, agent)) for agent in agents]
        action_spaces = tuple(converter.space for converter in self._converters)
        self._readers = [
            ObservationReader(name, agent, _asked(name, first.observation_space, agent), actions)
            for agent, actions in zip(agents, self._converters, strict=True)
        ]
        self.spec = TaskSpec(
            name=name,
            agents=tuple(str(agent) for agent in agents),
            observation_sizes=tuple(reader.size for reader in self._readers),
            action_spaces=action_spaces,
            episode_length=_time_limit(first),
        )
        self._agents = {agent: q for q, agent in enumerate(agents)}
        self._episodes = np.full(num_envs, -1, dtype=np.int64)
        self._terminated = np.zeros((num_envs, len(agents)), dtype=bool)
        self._truncated = np.zeros((num_envs, len(agents)), dtype=bool)
        self._present = np.zeros((num_envs, len(agents)), dtype=bool)
        self._masks: list[np.ndarray | None] = [
            np.ones((num_envs, mask_size(actions)), dtype=bool) if reader.masked else None
            for reader, actions in zip(self._readers, action_spaces, strict=True)
        ]
        self._observations: list[np.ndarray] = []
        self._history: list[dict[Any, Any]] = []
        self._drawable = False
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        self._limit: int | None = None

    def number_from(self, first: int) -> None:
        self._first = first

    def limit_episodes(self, steps: int) -> None:
        self._limit = steps
        self.spec = dataclasses.replace(self.spec, episode_length=min(steps, self.spec.episode_length or steps))

    def watch(self, witness: Callable[[ParallelEnv], ParallelEnv]) -> None:
        """Replace each copy by a witness of it, which behaves as the copy does."""
        self._copies = [witness(copy) for copy in self._copies]

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
        result = VectorStep(self._observations, rewards, terminated, truncated, None, alive=self._present.copy())
        cut = truncated & ~terminated & ~self._present
        self._blank(~self._present & ~cut & ~result.ended[:, np.newaxis])
        if result.ended.any() or cut.any():
            result.final_observations = self._observations
            self._observations = [array.copy() for array in self._observations]
            self._blank(cut)
            for ended in np.flatnonzero(result.ended):
                self._reset_copy(int(ended))
        result.observations = self.observe()
        return result

    def observe(self) -> list[np.ndarray]:
        return [array.copy() for array in self._observations]

    def action_masks(self) -> list[np.ndarray | None]:
        """Each agent's allowed actions, (B, n) bool; None for agents that were never given a mask."""
        return [None if mask is None else mask.copy() for mask in self._masks]

    def present(self) -> np.ndarray:
        return self._present.copy()

    def render(self) -> np.ndarray:
        """The task's own picture of copy 0: (H, W, 3) uint8.

        The first call replaces copy 0 by one that can draw, brought to its state by the same seed and actions.

        Raises:
            ConfigError: the task cannot draw itself.
        """
        if not self._drawable:
            self._make_drawable()
        picture = np.asarray(self._copies[0].render())
        return picture.astype(np.uint8) if picture.dtype.kind in "iu" else picture

    def close(self) -> None:
        """Close all copies; what one raises then changes nothing that was learned, and keeps no other open."""
        for copy in self._copies + self._retired:
            with suppress(Exception):  # it may have no such method, and nothing is lost where it fails
                copy.close()
        self._copies, self._retired = [], []

    def _step_copy(self, b: int, joint_action: np.ndarray, rewards: np.ndarray) -> None:
        copy = self._copies[b]
        acting = list(copy.agents)
        actions = {agent: self._action(self._agents[agent], joint_action) for agent in acting}
        if b == 0 and not self._drawable:
            self._history.append(actions)
        with _blamed(b):
            observations, rewarded, terminations, truncations, infos = _dicts("step()", copy.step, 5, actions)
            there = self._listed(copy)
            self._terminated[b], self._truncated[b] = True, False
            for agent in acting:
                q = self._agents[agent]
                rewards[q] = one_number(*_of(agent, "the reward", rewarded))
                truncated = bool(one_number(*_of(agent, "the truncation", truncations)))
                terminated = bool(one_number(*_of(agent, "the termination", terminations)))
                self._truncated[b, q] = truncated
                self._terminated[b, q] = terminated or (agent not in there and not truncated)
            arrived = [agent for agent in there if agent not in actions]
            goes_on = ~(self._terminated[b] | self._truncated[b])
            for agent, q in self._agents.items():
                self._present[b, q] = agent in arrived or (agent in there and goes_on[q])
            self._receive(b, [*acting, *arrived], observations, infos)
        self._lengths[b] += 1
        if self._lengths[b] == self._limit:
            self._truncated[b] |= self._present[b] & ~self._terminated[b]
            self._present[b] = False

    def _reset_copy(self, b: int) -> None:
        self._episodes[b] += 1
        self._lengths[b] = 0
        self._terminated[b] = False
        self._truncated[b] = False
        for array in self._observations:
            array[b] = 0.0
        for mask in self._masks:
            if mask is not None:
                mask[b] = True
        if b == 0:
            self._history = []
        copy = self._copies[b]
        with _blamed(b):
            observations, infos = _dicts("reset(seed)", copy.reset, 2, seed=self._episode_seed(b))
            there = self._listed(copy)
            if not there:
                raise Wrong.found("`agents` after reset()", "empty", "whoever is there at first")
            for agent, q in self._agents.items():
                self._present[b, q] = agent in there
            self._receive(b, there, observations, infos)

    def _listed(self, copy: ParallelEnv) -> dict[Any, None]:
        """The agents that a copy says are there, in their order."""
        agents = getattr(copy, "agents", None)
        if not isinstance(agents, Iterable) or isinstance(agents, str):
            raise Wrong.found("`agents`", kind_of(agents), "a list of those that are there")
        for agent in agents:
            if agent not in self._agents:
                expected = f"one of possible_agents, {', '.join(map(repr, self._agents))}"
                raise Wrong.found("a name in `agents`", f"{agent!r}", expected)
        return dict.fromkeys(agents)

    def _receive(self, b: int, agents: Iterable[Any], observations: dict[Any, Any], infos: dict[Any, Any]) -> None:
        """Take in what is said to agents: those that are there, and those that have just left."""
        for agent in agents:
            q = self._agents[agent]
            if agent not in observations and self._terminated[b, q] and not self._present[b, q]:
                continue  # what an agent sees after its own end counts for nothing
            observation, _ = _of(agent, "the observation", observations)
            self._observations[q][b] = self._readers[q].flat(observation)
            if not self._present[b, q]:
                continue  # an agent that has ended may hold an empty mask, and needs none
            allowed = self._readers[q].mask(observation, infos.get(agent) or {})
            if allowed is None:
                continue
            mask = self._masks[q]
            if mask is None:
                mask = self._masks[q] = np.ones((self.num_envs, len(allowed)), dtype=bool)
            mask[b] = allowed

    def _action(self, q: int, joint_action: np.ndarray) -> Any:
        return self._converters[q].value(joint_action[self.spec.action_slices[q]])

    def _make_drawable(self) -> None:
        metadata = getattr(self._copies[0], "metadata", None) or {}
        if "rgb_array" not in metadata.get("render_modes", ()):
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
        return counter_rng.episode_seed(self._seed, self._first + b, int(self._episodes[b]))

    def _blank(self, gone: np.ndarray) -> None:
        """Let agents that are gone, (B, N) bool, see zeros."""
        for array, rows in zip(self._observations, gone.T, strict=True):
            array[rows] = 0.0

    def _blank_observations(self) -> list[np.ndarray]:
        return [np.zeros((self.num_envs, size), dtype=np.float32) for size in self.spec.observation_sizes]

    def _blank_masks(self) -> list[np.ndarray | None]:
        return [None if mask is None else np.ones_like(mask) for mask in self._masks]


@contextmanager
def _blamed(b: int) -> Iterator[None]:
    """Name the copy in what is wrong inside the block."""
    try:
        yield
    except Wrong as error:
        error.env = b
        raise


def _dicts(name: str, call: Callable[..., Any], count: int, *values: Any, **options: Any) -> list[dict[Any, Any]]:
    """The dictionaries by agent that a call returns, the last of which, the infos, may be missing."""
    try:
        returned = call(*values, **options)
    except (Exception, SystemExit) as error:
        raise Wrong.raised(name, error) from error
    if not isinstance(returned, tuple) or len(returned) != count:
        found = f"a tuple of {len(returned)}" if isinstance(returned, tuple) else kind_of(returned)
        raise Wrong.found(f"what {name} returns", found, f"{count} dictionaries")
    parts = [*returned[:-1], {} if returned[-1] is None else returned[-1]]
    for part in parts:
        if not isinstance(part, Mapping):
            raise Wrong.found(f"a part of what {name} returns", kind_of(part), "a dictionary by agent")
    return parts


def _of(agent: Any, what: str, values: dict[Any, Any]) -> tuple[Any, str]:
    """An agent's value, and what to call it in errors."""
    where = f"{what} of agent {agent!r}"
    if agent not in values:
        raise Wrong.found(where, "missing", "one for each agent that is there")
    return values[agent], where


def _asked(task: str, space: Callable[[Any], Any], agent: Any) -> Any:
    """An agent's action or observation space."""
    try:
        return space(agent)
    except Exception as error:
        raise ConfigError(f"task {task!r}: {Wrong.raised(f'{space.__name__}({agent!r})', error)}") from error


def _time_limit(copy: ParallelEnv) -> int | None:
    """Steps after which an episode ends at the latest, of environments that say so."""
    limit = getattr(getattr(copy, "unwrapped", copy), "max_cycles", None)
    return int(limit) if isinstance(limit, int | np.integer) and limit > 0 else None
