"""Training in one process: MATRPO's agents without sockets, and the centralised algorithms.

The first is for debugging, and the reference that a run of many processes must equal bit for bit.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from matrpo.build import agents_are_alike, build_algorithm, build_participant
from matrpo.decentralized.in_process import agree, roll_out
from matrpo.envs.build import build_environment
from matrpo.envs.central import CentralEnvironment, CentralStep
from matrpo.envs.shared import AgentStep
from matrpo.errors import ConfigError
from matrpo.networks.device import on_device
from matrpo.networks.state import to_arrays
from matrpo.runs.graph_settings import build_graph
from matrpo.runs.heap import keep_free_memory
from matrpo.runs.metrics import environment_metrics
from matrpo.runs.phase_clock import PhaseClock
from matrpo.runs.process_id import ProcessId
from matrpo.runs.recorder import Recorder
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings import algorithm_names
from matrpo.settings.config import DecentralizedConfig, RunConfig


class Training(ABC):
    """Training loop in one process, which leaves the same files as a run of many.

    Args:
        run: the run's folder, with its settings.
        start: the iteration whose checkpoint to continue from; 0 begins anew.

    Raises:
        ConfigError: the settings do not fit together, or a checkpoint does not fit them.
    """

    def __init__(self, run: RunDirectory, start: int = 0) -> None:
        config = on_device(run.config, alone=True)
        if run.num_servers > 1:
            raise ConfigError(f"bad value {run.num_servers} for 'env_servers': one process is one server, expected 1")
        torch.set_num_threads(config.torch_threads)
        keep_free_memory()
        self.config: RunConfig = config
        self.iteration = start
        self._stream = run.episode_stream(start)
        self.environment = build_environment(config, self._stream, alike=agents_are_alike(config))
        spec = self.environment.spec
        if start:
            run.check_checkpoints(start, spec)
        self._recorders = [Recorder(run, run.agent(q), spec, start) for q in range(run.num_agents)]
        self._environment_recorder = Recorder(run, run.env, spec, start)
        self._iteration_began = time.perf_counter()

    @abstractmethod
    def iterate(self) -> None:
        """Run one iteration: collect samples, learn, and write the records."""

    def run(self, stop: Callable[[], bool], on_iteration: Callable[[int], None]) -> None:
        """Train to the last iteration, or until `stop` says so after an iteration.

        Args:
            stop: asked after each iteration.
            on_iteration: told the number of each iteration when its records are written.
        """
        while self.iteration < self.config.iterations and not stop():
            self.iterate()
            on_iteration(self.iteration)
        if self.iteration < self.config.iterations:
            self.save()

    def remark(self) -> str | None:
        """As `Algorithm.remark`."""
        return None

    def close(self) -> None:
        """End the processes and games of the environments."""
        self.environment.env.close()

    def save(self) -> None:
        """Write checkpoints of the last state, where they are not on disk yet."""
        for recorder in (*self._recorders, self._environment_recorder):
            recorder.save()

    def _record_environment(self, rollout: float) -> None:
        now = time.perf_counter()
        seconds, self._iteration_began = now - self._iteration_began, now
        metrics = environment_metrics(self.environment.take_metrics(), self.config.samples, seconds, rollout)
        state = self.environment.state_dict(), {"stream": self._stream}
        self._environment_recorder.record(self.iteration, metrics, state)


def make_training(run: RunDirectory, start: int = 0) -> Training:
    """Build the training loop of a run's algorithm; arguments as of `Training`."""
    return (CentralTraining if algorithm_names.is_central(run.config.algo) else InProcessTraining)(run, start)


class CentralTraining(Training):
    """Training loop of a centralised algorithm; arguments as of `Training`."""

    def __init__(self, run: RunDirectory, start: int = 0) -> None:
        super().__init__(run, start)
        config = self.config
        self._central = CentralEnvironment(self.environment, config.state_type)
        self.algorithm = build_algorithm(self.environment.env, config)
        self.algorithm.open_files(run.trainer.path, resume=start > 0)
        self._trainer_recorder = Recorder(run, run.trainer, self.environment.spec, start)
        self._clock = PhaseClock()
        self._step = self._restore(run, start) if start else self._central.reset()

    def iterate(self) -> None:
        """Run one iteration: collect samples, learn, and write the records."""
        self.iteration += 1
        began = time.perf_counter()
        for _ in range(self.config.rollout_length):
            self._step = self._central.step(self.algorithm.act(self._step))
            self.algorithm.observe(self._step)
        rollout = time.perf_counter() - began
        with self._clock.phase("update"):
            report = self.algorithm.update(self.iteration)
        self._record_environment(rollout)
        state = self.algorithm.state_dict()
        timed: dict[str, Any] = self._clock.take({})
        for recorder, metrics, tensors in zip(self._recorders, report.agents, state.agents, strict=True):
            recorder.record(self.iteration, metrics, (to_arrays(tensors), {}))
        self._trainer_recorder.record(self.iteration, report.trainer | timed, (to_arrays(state.trainer), {}))

    def remark(self) -> str | None:
        return self.algorithm.remark()

    def save(self) -> None:
        """Write checkpoints of the last state, where they are not on disk yet."""
        super().save()
        self._trainer_recorder.save()

    def _restore(self, run: RunDirectory, iteration: int) -> CentralStep:
        self.algorithm.load_checkpoint(run, iteration)
        arrays, _ = run.env.load_checkpoint(iteration)
        return self._central.resume(arrays)


class InProcessTraining(Training):
    """Training loop of all MATRPO agents and their environment; arguments as of `Training`."""

    config: DecentralizedConfig

    def __init__(self, run: RunDirectory, start: int = 0) -> None:
        super().__init__(run, start)
        self.config = config = on_device(run.decentralized, alone=True)
        spec = self.environment.spec
        graph = build_graph(config)
        self.participants = [build_participant(q, graph, spec, config, PhaseClock()) for q in range(run.num_agents)]
        self.agents = [participant.agent for participant in self.participants]
        self._steps = self._restore(run, start) if start else self.environment.reset()

    def iterate(self) -> None:
        """Run one iteration of Algorithm 1: rollout, advantage estimation, consensus, policy update."""
        self.iteration += 1
        began = time.perf_counter()
        self._steps = roll_out(self.participants, self.environment, self._steps, self.config.rollout_length)
        self._record_environment(time.perf_counter() - began)
        for participant, step in zip(self.participants, self._steps, strict=True):
            participant.prepare(step, self.iteration)
        agree(self.participants, self.iteration)
        for participant, recorder in zip(self.participants, self._recorders, strict=True):
            metrics = participant.metrics(participant.finish())
            recorder.record(self.iteration, metrics, participant.agent.state_dict())

    def _restore(self, run: RunDirectory, iteration: int) -> list[AgentStep]:
        for q, participant in enumerate(self.participants):
            newest = run.newest_checkpoint(ProcessId.agent(q))
            if newest:
                participant.agent.load_state_dict(*run.agent(q).load_checkpoint(newest))
            if newest < iteration:
                participant.agent.discard_rollout()
        arrays, _ = run.env.load_checkpoint(iteration)
        return self.environment.resume(arrays)
