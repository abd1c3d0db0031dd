"""Traffic lights in SUMO: B simulations, each stepped in a worker process of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from matrpo.envs.traffic.episodes import record
from matrpo.envs.traffic.simulation import Trips
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.envs.workers.worker import Worker
from matrpo.spaces import TaskSpec


class TrafficEnv(VectorEnv):
    """B vectorised simulations of a road network, of which each traffic light is an agent.

    Observations, actions and rewards are sumo-rl's defaults (`Junction`): an agent chooses the green phase of the next
    5 seconds, which begin with 2 of yellow where that is another one, and is paid by how much less the vehicles before
    its light have waited. An episode is truncated after an hour, or as `limit_episodes` says. Episode e of environment
    b is a function of (seed, b, e) and of what is done.

    `waiting_time` and `travel_time` are `Trips` at the end of an episode. State cannot be saved: `state_dict` is None.

    Args:
        spec: the agents.
        network: the path of the network's file, beside which its routes lie.
        num_envs: B, each a process from the first reset on: libsumo holds one simulation.
        seed: of the traffic.
        folder: what `close` removes, if the network lies in a folder of its own.

    Raises:
        RuntimeError: a worker failed, from any method; the text is one line.
    """

    statistics = Trips._fields

    def __init__(
        self, spec: TaskSpec, network: Path, num_envs: int, seed: int, folder: TemporaryDirectory[str] | None = None
    ) -> None:
        self.spec = spec
        self.num_envs = num_envs
        self._network = network
        self._seed = seed
        self._folder = folder
        self._first = 0
        self._workers: list[Worker] = []
        self._records = np.zeros(num_envs, dtype=record(spec))

    def number_from(self, first: int) -> None:
        self._first = first

    def limit_episodes(self, steps: int) -> None:
        self.spec = dataclasses.replace(self.spec, episode_length=steps)

    def reset(self) -> list[np.ndarray]:
        if not self._workers:
            self._workers = [self._start(self._first + b) for b in range(self.num_envs)]
            self._receive(np.empty((self.num_envs, 0)))
        self._order(b"r")
        return self.observe()

    def step(self, joint_action: np.ndarray) -> VectorStep:
        self._check_action(joint_action)
        if not self._workers:
            raise RuntimeError("reset the environment before stepping it")
        self._order(b"s", joint_action.astype(np.float32, copy=False))
        records = self._records
        truncated = np.repeat(records["truncated"][:, None], self.spec.num_agents, axis=1)
        step = VectorStep(self.observe(), records["rewards"].copy(), np.zeros_like(truncated), truncated, None)
        if truncated.any():
            step.final_observations = self._split(records["final_observation"])
            step.statistics = records["trips"].copy()
        return step

    def observe(self) -> list[np.ndarray]:
        return self._split(self._records["observation"])

    def default_actions(self) -> np.ndarray:
        """Fixed-time control, (B, N) float32: each light goes on to its next green phase as soon as it may."""
        columns = []
        for seen, space in zip(self.observe(), self.spec.action_spaces, strict=True):
            phases = space.parameters
            columns.append((seen[:, :phases].argmax(axis=1) + seen[:, phases]) % phases)
        return np.stack(columns, axis=1).astype(np.float32)

    def close(self) -> None:
        if self._folder is not None:  # first, since workers take their time, and who waits for this may not
            self._folder.cleanup()
        for worker in self._workers:
            worker.close()
        self._workers = []

    def _start(self, number: int) -> Worker:
        label = f"the worker of environment {number} of {self.spec.name}"
        arguments = [str(self._network), str(number), str(self._seed), str(self.spec.episode_length)]
        return Worker(label, "matrpo.envs.traffic.traffic_worker", arguments)

    def _order(self, letter: bytes, content: np.ndarray | None = None) -> None:
        for b, worker in enumerate(self._workers):
            worker.send(letter, None if content is None else content[b])
        records = np.zeros_like(self._records)
        self._receive(records)
        self._records = records

    def _receive(self, answers: np.ndarray) -> None:
        for b, worker in enumerate(self._workers):
            worker.receive(answers[b : b + 1])

    def _split(self, joined: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum(self.spec.observation_sizes)[:-1]
        return [np.ascontiguousarray(part) for part in np.split(joined, ends, axis=1)]
