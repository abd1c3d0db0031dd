"""Steps of a batch of environments in memory that worker processes share with their parent."""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Any

import numpy as np

from matrpo.envs.masks import mask_size
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.spaces import TaskSpec

_ALIGNMENT = 64
_OF_A_STEP = ("rewards", "terminated", "truncated", "alive")
_Layout = dict[str, tuple[Any, tuple[int, ...]]]


class SharedBatch:
    """The latest step of B environments, in a file without a name that is gone with the last process that has it.

    Each worker writes its own rows. What not every step has, masks and final observations, is there for all rows as
    soon as one worker says so.

    Args:
        spec: the task's agents and spaces.
        num_envs: B.
        workers: W.
        descriptor: of the file, if another process made it.

    Attributes:
        descriptor: of the file.
        joint_action: (B, W) float32, what the environments are to do next.
    """

    def __init__(self, spec: TaskSpec, num_envs: int, workers: int, descriptor: int | None = None) -> None:
        self._num_agents = spec.num_agents
        layout = _layout(spec, num_envs, workers)
        size = sum(map(_room, layout.values()))
        self.descriptor = _unnamed_file(size) if descriptor is None else descriptor
        self._memory = mmap.mmap(self.descriptor, size)
        self._arrays: dict[str, np.ndarray] = {}
        start = 0
        for name, (dtype, shape) in layout.items():
            count = int(np.prod(shape))
            self._arrays[name] = np.frombuffer(self._memory, dtype, count, start).reshape(shape)
            start += _room((dtype, shape))
        self.joint_action = self._arrays["joint_action"]

    def put(self, worker: int, rows: slice, env: VectorEnv, step: VectorStep | None) -> None:
        """Store what there is to see in a worker's environments, and the step that led there, if one did."""
        arrays, observations, present = self._arrays, env.observe(), env.present()
        arrays["present"][rows] = True if present is None else present
        finals = step.final_observations if step else None
        arrays["has_finals"][worker] = finals is not None
        for q, mask in enumerate(env.action_masks()):
            arrays[f"observation.{q}"][rows] = observations[q]
            arrays[f"final.{q}"][rows] = (finals or observations)[q]
            arrays[f"mask.{q}"][rows] = True if mask is None else mask
            arrays["has_mask"][worker, q] = mask is not None
        if step:
            alive = ~(step.terminated | step.truncated) if step.alive is None else step.alive
            for name in _OF_A_STEP:
                arrays[name][rows] = alive if name == "alive" else getattr(step, name)

    def step(self) -> VectorStep:
        """A copy of the step that the workers have stored."""
        finals = self._copies("final") if self._arrays["has_finals"].any() else None
        copies = {name: self._arrays[name].copy() for name in _OF_A_STEP}
        return VectorStep(observations=self.observations(), final_observations=finals, **copies)

    def observations(self) -> list[np.ndarray]:
        """A copy of each agent's observations, (B, O_q) float32."""
        return self._copies("observation")

    def present(self) -> np.ndarray:
        """A copy of the agents that are in the current episodes, (B, N) bool."""
        return self._arrays["present"].copy()

    def masks(self) -> list[np.ndarray | None]:
        """A copy of each agent's action mask, (B, n) bool; None for those that were given none."""
        given = self._arrays["has_mask"].any(axis=0)
        return [mask if has else None for mask, has in zip(self._copies("mask"), given, strict=True)]

    def close(self) -> None:
        """Close the file; calling it twice is harmless. The memory is unmapped with the last array in it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _copies(self, name: str) -> list[np.ndarray]:
        return [self._arrays[f"{name}.{q}"].copy() for q in range(self._num_agents)]


def _unnamed_file(size: int) -> int:
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        return os.dup(file.fileno())


def _layout(spec: TaskSpec, num_envs: int, workers: int) -> _Layout:
    """Type and shape of each array, in their order in the file."""
    b, n = num_envs, spec.num_agents
    layout: _Layout = {"joint_action": (np.float32, (b, spec.joint_action_width)), "rewards": (np.float64, (b, n))}
    layout |= dict.fromkeys(("terminated", "truncated", "alive", "present"), (np.bool_, (b, n)))
    layout |= {"has_finals": (np.bool_, (workers,)), "has_mask": (np.bool_, (workers, n))}
    for q, (size, space) in enumerate(zip(spec.observation_sizes, spec.action_spaces, strict=True)):
        layout |= {f"{name}.{q}": (np.float32, (b, size)) for name in ("observation", "final")}
        layout[f"mask.{q}"] = (np.bool_, (b, mask_size(space)))
    return layout


def _room(entry: tuple[Any, tuple[int, ...]]) -> int:
    """Bytes that an array takes in the file."""
    dtype, shape = entry
    size = int(np.dtype(dtype).itemsize * np.prod(shape))
    return -(-size // _ALIGNMENT) * _ALIGNMENT
