"""Environments that are stepped one after the other, dealt out to worker processes."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.envs.workers.shared_batch import SharedBatch
from matrpo.envs.workers.worker import DEADLINE, Worker
from matrpo.errors import TaskError
from matrpo.spaces import TaskSpec


class WorkerEnv(VectorEnv):
    """B copies of a task, dealt out to W worker processes, each of which steps its share one copy after the other.

    Episodes are those of the same copies in one process, whatever W is. The workers start at the first reset; if there
    are as many as copies, no process holds two. State cannot be saved: `state_dict` is None.

    Args:
        spec: the task's agents and spaces; a worker finds the task by its name.
        num_envs: B.
        seed: of everything random in them.
        workers: W; at most B.
        deadline: timeout in seconds of a step or reset of a worker's copies.

    Raises:
        TaskError: a worker failed, is gone or hangs, from `reset` and `step`.
    """

    def __init__(self, spec: TaskSpec, num_envs: int, seed: int, workers: int, deadline: float = DEADLINE) -> None:
        self.spec = spec
        self.num_envs = num_envs
        self._seed = seed
        self._deadline = deadline
        self._first = 0
        self._length: int | None = None
        bounds = np.linspace(0, num_envs, min(num_envs, workers) + 1).astype(int).tolist()
        self._shares = list(itertools.pairwise(bounds))
        self._batch = SharedBatch(spec, num_envs, len(self._shares))
        self._workers: list[Worker] = []

    def number_from(self, first: int) -> None:
        self._first = first

    def limit_episodes(self, steps: int) -> None:
        self._length = steps
        self.spec = dataclasses.replace(self.spec, episode_length=steps)

    def reset(self) -> list[np.ndarray]:
        if not self._workers:
            self._workers = [self._start(*share, worker) for worker, share in enumerate(self._shares)]
            self._order(None)
        self._order(b"r")
        return self.observe()

    def step(self, joint_action: np.ndarray) -> VectorStep:
        """Advance every copy by one step; `Box` actions are clipped to their bounds."""
        self._check_action(joint_action)
        if not self._workers:
            raise RuntimeError("reset the environment before stepping it")
        self._batch.joint_action[...] = joint_action
        self._order(b"s")
        return self._batch.step()

    def observe(self) -> list[np.ndarray]:
        return self._batch.observations()

    def action_masks(self) -> list[np.ndarray | None]:
        """Each agent's allowed actions, (B, n) bool; None for agents that were never given a mask."""
        return self._batch.masks()

    def present(self) -> np.ndarray:
        return self._batch.present()

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._workers = []
        self._batch.close()

    def _start(self, first: int, stop: int, worker: int) -> Worker:
        """A process for copies `first` to `stop` - 1."""
        numbers = (self.spec.num_agents, self.num_envs, len(self._shares), worker, first, stop)
        place = (self._seed, self._first, self._length or 0, self._batch.descriptor)
        label = f"the worker of environments {self._first + first} to {self._first + stop - 1}"
        arguments = [self.spec.name, *map(str, numbers + place)]
        module = "matrpo.envs.workers.worker_process"
        return Worker(label, module, arguments, (self._batch.descriptor,), self._deadline)

    def _order(self, letter: bytes | None) -> None:
        """Give all workers an order, and wait until all have carried it out; None: wait until they are built."""
        try:
            if letter:
                for worker in self._workers:
                    worker.send(letter)
            for worker in self._workers:
                worker.receive(np.empty(0))
        except RuntimeError as error:
            task = f"task {self.spec.name!r}"
            raise TaskError(str(error) if task in str(error) else f"{task}: {error}") from None
