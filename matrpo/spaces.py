"""Observation sizes, action spaces, and the layout of the joint action.

A joint action is one float32 array of shape (..., width): agent n's part is
`joint_action[..., action_slices[n]]`, one column that holds the index for a `Discrete` space (exact in float32
up to 2**24), one for each factor of a `MultiDiscrete`, `size` columns for a `Box`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from matrpo.errors import ConfigError

_LARGEST = float(np.finfo(np.float32).max)
_MOST_CHOICES = 2**24
"""float32 holds every index below this exactly."""


@dataclass(frozen=True)
class Discrete:
    """Discrete action space: `n` actions, numbered from 0.

    Raises:
        ConfigError: there is no action, or one whose number float32 cannot hold.
    """

    n: int

    def __post_init__(self) -> None:
        if not 1 <= self.n <= _MOST_CHOICES:
            raise ConfigError(f"a Discrete has {self.n} actions: expected 1 to {_MOST_CHOICES}")

    def __str__(self) -> str:
        return f"Discrete({self.n})"

    @property
    def width(self) -> int:
        """Columns of the joint action."""
        return 1

    @property
    def parameters(self) -> int:
        """Numbers that a network says of an action: logits; also the width of an action mask."""
        return self.n

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of choices of each factor: there is one factor."""
        return (self.n,)


@dataclass(frozen=True)
class MultiDiscrete:
    """Product of discrete action spaces: an action is one choice for each factor, numbered from 0.

    An action mask has `sum(sizes)` columns, the factors' side by side. `sizes` may be any sequence of integers.

    Raises:
        ConfigError: there is no factor, or one without a choice, or with more than float32 can number.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(int(n) for n in self.sizes))
        if not self.sizes or min(self.sizes) < 1 or max(self.sizes) > _MOST_CHOICES:
            raise ConfigError(
                f"the factors of a MultiDiscrete have sizes {self.sizes}: expected one or more, of 1 to {_MOST_CHOICES}"
            )

    def __str__(self) -> str:
        return f"MultiDiscrete({', '.join(map(str, self.sizes))})"

    @property
    def width(self) -> int:
        """Columns of the joint action."""
        return len(self.sizes)

    @property
    def parameters(self) -> int:
        """Numbers that a network says of an action: logits; also the width of an action mask."""
        return sum(self.sizes)


@dataclass(frozen=True, init=False, repr=False)
class Box:
    """Continuous action space: real vectors of `size` components, each between its bounds in `low` and `high`.

    Policies act in half ranges: a component a of theirs stands for `middle + half_range * a`, so that the bounds are
    at -1 and 1. A component of which a bound is infinite is in the task's own unit; so is one of a range that float32
    cannot hold. Gaussian policies know no bounds: the environment clips what it receives.

    Args:
        size: number of components.
        low, high: of each component, or one number for all.

    Raises:
        ConfigError: the bounds are not so many, or contradict one another.
    """

    size: int
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __init__(
        self, size: int, low: float | Sequence[float] | np.ndarray, high: float | Sequence[float] | np.ndarray
    ) -> None:
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "low", _per_component("low", low, size))
        object.__setattr__(self, "high", _per_component("high", high, size))
        if not all(a <= b for a, b in zip(self.low, self.high, strict=True)):
            raise ConfigError(f"a Box has bounds {self.low} and {self.high}: expected low <= high in each component")

    def __str__(self) -> str:
        ranges = [f"{a:g} to {b:g}" for a, b in zip(self.low, self.high, strict=True)]
        return f"Box({self.size}, {', '.join(ranges[:1] if len(set(ranges)) == 1 else ranges)})"

    def __repr__(self) -> str:
        """Bounds common to all components are written once if policies act in the task's unit.

        Checkpoints hold this: one that was made with other units does not fit.
        """
        low, high = self.low, self.high
        if self.in_task_units and len(set(low)) == len(set(high)) == 1:
            return f"Box(size={self.size}, low={low[0]}, high={high[0]})"
        return f"Box(size={self.size}, low={low}, high={high})"

    @property
    def width(self) -> int:
        """Columns of the joint action."""
        return self.size

    @property
    def parameters(self) -> int:
        """Numbers that a network says of an action: means."""
        return self.size

    @property
    def bounded(self) -> tuple[bool, ...]:
        """Of each component, whether it has a range: policies act in halves of it."""
        return tuple(high - low < _LARGEST for low, high in zip(self.low, self.high, strict=True))

    @property
    def scales(self) -> tuple[tuple[float, float], ...]:
        """Middle and half range of each component, what a policy's 0 stands for and its unit; 0, 1 without bounds."""
        return tuple(
            (low / 2 + high / 2, high / 2 - low / 2) if bounded else (0.0, 1.0)
            for low, high, bounded in zip(self.low, self.high, self.bounded, strict=True)
        )

    @property
    def in_task_units(self) -> bool:
        """Whether what a policy does is in the task's own unit in every component."""
        return set(self.scales) <= {(0.0, 1.0)}


ActionSpace = Discrete | MultiDiscrete | Box

LARGEST_ACTION = 1000.0
"""Largest magnitude of a policy's continuous action, in half ranges: beyond it, others' models of it break down."""


def outside(space: ActionSpace, action: np.ndarray) -> str | None:
    """Why policies' actions, (..., width) float32, are not of a space, if they are not: in words, after "action"."""
    if not np.isfinite(action).all():
        return "is not finite"
    if isinstance(space, Box):
        worst = np.abs(action).max(initial=0.0)
        return f"has a component of {worst:g}, beyond {LARGEST_ACTION:g}" if worst > LARGEST_ACTION else None
    wrong = action[(action != np.floor(action)) | (action < 0) | (action >= np.array(space.sizes))]
    return f"is {wrong[0]:g}, not of {space}" if wrong.size else None


@dataclass(frozen=True)
class TaskSpec:
    """Specification of a task: agents, observation sizes and action spaces.

    Attributes:
        name: the task as `--task` names it.
        agents: the agents' names, in the order of their ids.
        observation_sizes: length of each agent's flat observation.
        action_spaces: each agent's action space.
        episode_length: steps after which an episode has ended at the latest, if known.
        neighbours: pairs of agents i < j that are neighbours in the task, such as junctions on one road; None if the
            task knows no neighbours.
    """

    name: str
    agents: tuple[str, ...]
    observation_sizes: tuple[int, ...]
    action_spaces: tuple[ActionSpace, ...]
    episode_length: int | None = None
    neighbours: tuple[tuple[int, int], ...] | None = None

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

    @cached_property
    def joint_action_width(self) -> int:
        """Columns of the joint action over all agents."""
        return sum(space.width for space in self.action_spaces)

    def alone(self, agent: int) -> TaskSpec:
        """The task as one agent's, with its own observations and actions."""
        return TaskSpec(self.name, ("agent",), (self.observation_sizes[agent],), (self.action_spaces[agent],))

    def task_units(self, joint_action: np.ndarray) -> np.ndarray:
        """Policies' joint actions in the task's own units, as `VectorEnv.step` takes them: see `Box`.

        Args:
            joint_action: (..., W) float32; it is returned itself if the units are the same.
        """
        if self._scales is None:
            return joint_action
        middle, half_range = self._scales
        scaled: np.ndarray = (middle + half_range * joint_action).astype(np.float32)
        return scaled

    @cached_property
    def _scales(self) -> np.ndarray | None:
        """Middle and half range of each column, (2, W) float64, 0 and 1 for indices; None if no unit differs."""
        boxes = [space for space in self.action_spaces if isinstance(space, Box)]
        if all(space.in_task_units for space in boxes):
            return None
        columns = [
            space.scales if isinstance(space, Box) else [(0.0, 1.0)] * space.width for space in self.action_spaces
        ]
        return np.array([scale for scales in columns for scale in scales]).T

    def noop(self, num_envs: int) -> np.ndarray:
        """A joint action of zeros: index 0 or the zero vector. Shape (num_envs, width), float32."""
        return np.zeros((num_envs, self.joint_action_width), dtype=np.float32)


def _per_component(name: str, bounds: float | Sequence[float] | np.ndarray, size: int) -> tuple[float, ...]:
    values = np.asarray(bounds, dtype=np.float64)
    if values.shape not in ((), (size,)):
        raise ConfigError(
            f"a Box of {size} components has {name} of shape {values.shape}: expected one number or {size}"
        )
    return tuple(np.broadcast_to(values, (size,)).tolist())
