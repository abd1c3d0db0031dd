"""Writer of a process's records after each iteration: metrics, TensorBoard scalars and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from matrpo.errors import diverged
from matrpo.runs.event_file import EventFile
from matrpo.runs.process_directory import ProcessDirectory
from matrpo.runs.run_directory import RunDirectory, identity
from matrpo.runs.scalars import scalars
from matrpo.spaces import TaskSpec

State = tuple[Mapping[str, np.ndarray], Mapping[str, Any]]
"""Checkpoint state of a process: arrays, and meta data that JSON can hold."""

_CHECKPOINTS_FOR_A_COMMON_ONE = 2


@dataclass(frozen=True)
class _Snapshot:
    iteration: int
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


class Recorder:
    """Writes the metrics lines, TensorBoard scalars and checkpoints of one process.

    The environment's lock step keeps all processes within one iteration of each other. So each keeps its last
    two states in memory and `save` writes both: whenever a run stops, all have an iteration in common.

    Args:
        run: the run's folder.
        process: the files of this process in it.
        spec: the task, to mark checkpoints with.
        start: the iteration that the process continues from; 0 for a new run.
    """

    def __init__(self, run: RunDirectory, process: ProcessDirectory, spec: TaskSpec, start: int = 0) -> None:
        self._config = run.config
        self._process = process
        self._origin = run.origin(process)
        name = process.path.name
        self._who = f"agent {spec.agents[int(name)]!r}" if name.isdigit() else name
        self._belongs_to = identity(spec, run.config)
        self._snapshots: list[_Snapshot] = []
        self._events: EventFile | None = None
        if self._config.tensorboard:
            self._events = EventFile(run.tensorboard(process), (start + 1) * self._config.samples)

    def record(self, iteration: int, metrics: Mapping[str, Any], state: State) -> None:
        """Write the metrics of `iteration`, and its checkpoint when one is due.

        Args:
            iteration: the iteration that ended, from 1.
            metrics: what happened in it; numbers, None, or mappings of numbers.
            state: this process's state now; it is copied.

        Raises:
            TaskError: what was learned is not finite; nothing of the iteration is written then.
            StorageError: the disk is full or read-only.
        """
        config, steps = self._config, iteration * self._config.samples
        arrays, meta = state
        if (name := _not_finite(metrics, arrays)) is not None:
            raise diverged(self._config.task, f"{name} of {self._who}", iteration)
        self._process.log_metrics({"iteration": iteration, "steps": steps, "time": time.time(), **metrics})
        if self._events:
            self._events.add(steps, scalars(metrics))
        copies = {name: np.array(array) for name, array in arrays.items()}
        snapshot = _Snapshot(iteration, copies, {"belongs_to": self._belongs_to, **meta})
        self._snapshots = [*self._snapshots[-1:], snapshot]
        if iteration % config.checkpoint_every == 0 or iteration == config.iterations:
            self._write(snapshot)
            self._process.prune(max(config.checkpoints_kept, _CHECKPOINTS_FOR_A_COMMON_ONE))

    def save(self) -> None:
        """Write checkpoints of the last two states, where they are not on disk yet.

        Raises:
            StorageError: the disk is full or read-only.
        """
        for snapshot in self._snapshots:
            self._write(snapshot)

    def _write(self, snapshot: _Snapshot) -> None:
        if snapshot.iteration not in self._process.checkpoint_iterations():
            self._process.save_checkpoint(snapshot.iteration, snapshot.arrays, snapshot.meta, self._origin)


def _not_finite(metrics: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str | None:
    """The name of what a process has learned that is not finite; None if all is. A task's own state may be anything."""
    learned = {name: array for name, array in arrays.items() if not name.startswith("env.")}
    for name, value in ({"critic_loss": metrics.get("critic_loss") or 0.0} | learned).items():
        if not np.isfinite(value).all():
            return name
    return None
