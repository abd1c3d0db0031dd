"""Worker processes among which a batch of environments is dealt out."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from matrpo.envs.vector_env import VectorStep
from matrpo.envs.workers.cores import usable_cores
from matrpo.envs.workers.worker import Worker


class WorkerPool:
    """As many worker processes as there are cores, each with a share of B environments; all are given the same orders.

    They start at the first order.

    Args:
        num_envs: B.
        start: starts the worker of the environments `first` to `stop` - 1.

    Attributes:
        workers: those that have started.
    """

    def __init__(self, num_envs: int, start: Callable[[int, int], Worker]) -> None:
        self._num_envs = num_envs
        self._start = start
        self._most = usable_cores()
        self._shares: list[slice] = []
        self.workers: list[Worker] = []

    def limit(self, most: int) -> None:
        """Start at most so many workers."""
        self._most = most

    def order(self, letter: bytes, content: np.ndarray | None, answers: np.ndarray) -> None:
        """Let every worker carry out an order.

        Args:
            letter: of the order.
            content: what goes with it, a row for each environment.
            answers: filled with the answers, a row for each environment.

        Raises:
            RuntimeError: a worker failed, is gone or hangs. The text is one line.
        """
        if not self.workers:
            self._start_workers()
        for worker, share in zip(self.workers, self._shares, strict=True):
            worker.send(letter, None if content is None else content[share])
        self._receive(answers)

    def close(self) -> None:
        """End the processes; calling it twice is harmless."""
        for worker in self.workers:
            worker.close()

    def _start_workers(self) -> None:
        bounds = np.linspace(0, self._num_envs, min(self._num_envs, self._most) + 1).astype(int).tolist()
        self._shares = [slice(first, stop) for first, stop in itertools.pairwise(bounds)]
        for share in self._shares:
            self.workers.append(self._start(share.start, share.stop))
        self._receive(np.empty((self._num_envs, 0)))

    def _receive(self, answers: np.ndarray) -> None:
        for worker, share in zip(self.workers, self._shares, strict=True):
            worker.receive(answers[share])


def team_step(records: np.ndarray, observations: list[np.ndarray]) -> VectorStep:
    """The step that workers' records tell of, for a team that is paid and ends together.

    Each agent receives the N-th part of the reward, so that the team return is the environment's.

    Args:
        records: (B,) with the fields `reward`, `terminated` and `truncated`.
        observations: of each of the N agents, after the step.
    """
    num_agents = len(observations)
    rewards, terminated, truncated = (
        np.repeat(records[field][:, None], num_agents, axis=1) for field in ("reward", "terminated", "truncated")
    )
    return VectorStep(observations, rewards / num_agents, terminated, truncated, None)
