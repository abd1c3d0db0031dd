"""Agents made alike, for a policy that all of them share: one-hot agent ids, and padding where agents differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.envs.wrappers.wrapper import Wrapper, final_state_of
from matrpo.errors import ConfigError
from matrpo.spaces import ActionSpace, Box, Discrete, MultiDiscrete, TaskSpec


class AlikeAgents(Wrapper):
    """An environment whose agents see and do the same things, each with its one-hot id at the end of its observation.

    Shorter observations are padded with zeros, smaller action spaces with choices that the action masks rule out, or
    with components that are ignored. The global state stays what it was. Parameter sharing with agent indication:
    Gupta et al. 2017, "Cooperative multi-agent control using deep reinforcement learning", section 4.

    Args:
        env: the environment.

    Raises:
        ConfigError: some agents have discrete actions, and others continuous ones.
    """

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env, made_alike(env.spec))
        inner = env.spec
        self._ids = np.eye(inner.num_agents, dtype=np.float32)
        self._longest = max(inner.observation_sizes)
        space = self.spec.action_spaces[0]
        self._in_half_ranges = isinstance(space, Box) and len(set(inner.action_spaces)) > 1
        self._padded = [_is_padded(own, space) for own in inner.action_spaces]
        widths = [own.width for own in inner.action_spaces]
        self._columns = np.concatenate([q * space.width + np.arange(width) for q, width in enumerate(widths)])

    def reset(self) -> list[np.ndarray]:
        return self._seen(self._env.reset())

    def step(self, joint_action: np.ndarray) -> VectorStep:
        """Advance every environment by one step."""
        self._check_action(joint_action)
        actions = joint_action[:, self._columns]
        step = self._env.step(self._env.spec.task_units(actions) if self._in_half_ranges else actions)
        finals = step.final_observations
        return dataclasses.replace(
            step,
            observations=self._seen(step.observations),
            final_observations=None if finals is None else self._seen(finals),
            final_state=final_state_of(step),
        )

    def observe(self) -> list[np.ndarray]:
        return self._seen(self._env.observe())

    def action_masks(self) -> list[np.ndarray | None]:
        """Each agent's allowed actions, (B, n) bool: none of those that it only has for the sake of others."""
        masks = zip(self._env.action_masks(), self._padded, self._env.spec.action_spaces, strict=True)
        return [self._widened(mask, own) if padded else mask for mask, padded, own in masks]

    def _seen(self, observations: Sequence[np.ndarray]) -> list[np.ndarray]:
        seen = []
        for observation, id_ in zip(observations, self._ids, strict=True):
            array = np.zeros((self.num_envs, self._longest + len(self._ids)), dtype=np.float32)
            array[:, : observation.shape[1]] = observation
            array[:, self._longest :] = id_
            seen.append(array)
        return seen

    def _widened(self, mask: np.ndarray | None, own: ActionSpace) -> np.ndarray:
        """A mask of an agent's own factors as one of the common space, factor by factor."""
        common = self.spec.action_spaces[0]
        assert not isinstance(own, Box)
        assert not isinstance(common, Box)
        if mask is None:
            mask = np.ones((self.num_envs, sum(own.sizes)), dtype=bool)
        wide = np.zeros((self.num_envs, sum(common.sizes)), dtype=bool)
        start, begin = 0, 0
        for mine, size in zip_longest(own.sizes, common.sizes, fillvalue=0):
            wide[:, begin : begin + mine] = mask[:, start : start + mine]
            wide[:, begin] |= mine == 0
            start, begin = start + mine, begin + size
        return wide


def made_alike(spec: TaskSpec) -> TaskSpec:
    """The spec of a task whose agents are made alike.

    Raises:
        ConfigError: some agents have discrete actions, and others continuous ones.
    """
    n, size = spec.num_agents, max(spec.observation_sizes)
    sizes, spaces = (size + n,) * n, (_common_space(spec),) * n
    return dataclasses.replace(spec, observation_sizes=sizes, action_spaces=spaces)


def _is_padded(own: ActionSpace, common: ActionSpace) -> bool:
    return not isinstance(own, Box) and own != common


def _common_space(spec: TaskSpec) -> ActionSpace:
    """The smallest action space that holds every agent's; boxes that differ are in half ranges of each agent's own."""
    spaces = set(spec.action_spaces)
    if len(spaces) == 1:
        return spec.action_spaces[0]
    boxes = [space for space in spaces if isinstance(space, Box)]
    if len(boxes) == len(spaces):
        return Box(max(box.size for box in boxes), -1.0, 1.0)
    if boxes:
        raise ConfigError(
            f"agent_id: some agents of {spec.name} have discrete actions and others continuous ones: "
            "they cannot share a policy"
        )
    sizes = tuple(
        max(factor)
        for factor in zip_longest(*(space.sizes for space in spaces if not isinstance(space, Box)), fillvalue=1)
    )
    return Discrete(sizes[0]) if len(sizes) == 1 else MultiDiscrete(sizes)
