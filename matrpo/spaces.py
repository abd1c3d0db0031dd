"""Observation sizes, action spaces, and the layout of the joint action.

A joint action is one float32 array of shape (..., width): agent n's part is
`joint_action[..., action_slices[n]]`, one column that holds the index for a `Discrete` space (exact in float32
up to 2**24), `size` columns for a `Box`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np


@dataclass(frozen=True)
class Discrete:
    """Discrete action space: `n` actions, numbered from 0."""

    n: int

    def __str__(self) -> str:
        return f"Discrete({self.n})"

    @property
    def width(self) -> int:
        """Columns of the joint action."""
        return 1


@dataclass(frozen=True)
class Box:
    """Continuous action space: real vectors of `size` components, each between `low` and `high`.

    Policies are unbounded Gaussians: the environment clips what it receives to the bounds.
    """

    size: int
    low: float
    high: float

    def __str__(self) -> str:
        return f"Box({self.size}, {self.low:g} to {self.high:g})"

    @property
    def width(self) -> int:
        """Columns of the joint action."""
        return self.size


ActionSpace = Discrete | Box


@dataclass(frozen=True)
class TaskSpec:
    """Specification of a task: agents, observation sizes and action spaces.

    Attributes:
        name: the task as `--task` names it.
        agents: the agents' names, in the order of their ids.
        observation_sizes: length of each agent's flat observation.
        action_spaces: each agent's action space.
        episode_length: steps after which an episode has ended at the latest, if known.
    """

    name: str
    agents: tuple[str, ...]
    observation_sizes: tuple[int, ...]
    action_spaces: tuple[ActionSpace, ...]
    episode_length: int | None = None

    @property
    def num_agents(self) -> int:
        """Number of agents N."""
        return len(self.agents)

    @cached_property
    def action_slices(self) -> tuple[slice, ...]:
        """Agent n's columns of the joint action."""
        ends = list(accumulate(space.width for space in self.action_spaces))
        starts = [0, *ends[:-1]]
        return tuple(slice(a, b) for a, b in zip(starts, ends, strict=True))

    @property
    def joint_action_width(self) -> int:
        """Columns of the joint action over all agents."""
        return sum(space.width for space in self.action_spaces)

    def noop(self, num_envs: int) -> np.ndarray:
        """A joint action of zeros: index 0 or the zero vector. Shape (num_envs, width), float32."""
        return np.zeros((num_envs, self.joint_action_width), dtype=np.float32)
