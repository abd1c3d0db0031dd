"""The environment server: it steps the shared environment in lock step with all agents.

It sends each agent what `AgentStep` holds and gets that agent's actions; it never sees a policy, a value or a ratio.
The observation after the last step of an iteration is the first one of the next: tick (i, T) is tick (i+1, 0).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
import zmq

from matrpo.envs.registry import make_env
from matrpo.envs.shared import AgentStep, SharedEnvironment
from matrpo.launch.cluster import Cluster
from matrpo.launch.lines import ServerLine
from matrpo.launch.process import READY, Supervision, ignore_stops, run_supervised
from matrpo.launch.wire import Action, Bye, EnvironmentCodec, Hello, Observation, Stop
from matrpo.recorder import Recorder, environment_metrics
from matrpo.run_directory import RunDirectory

TITLE = "matrpo env-server"

OnReady = Callable[[], dict[str, float]]

_LOG = logging.getLogger(__name__)
_PATIENCE = 5.0
"""Seconds between two lines of the log about agents that are waited for."""


class EnvironmentServer:
    """The server of one run.

    Args:
        cluster: where the processes are.
        run: the run directory.
        start: the iteration to continue from; 0 for a new run.
        on_ready: called once, when every agent has said hello; what it returns joins the first line of metrics.
    """

    def __init__(self, cluster: Cluster, run: RunDirectory, start: int, on_ready: OnReady) -> None:
        config = run.config
        env = make_env(config.task, config.agents, config.num_envs, config.seed)
        self._config = config
        self._start = start
        self._on_ready = on_ready
        self._shared = SharedEnvironment(env, config.gamma, config.reward_scaling)
        self._recorder = Recorder(run, run.env, env.spec, start)
        self._steps = self._first_steps(run)
        self._label = (start + 1, 0)
        self._actions: dict[int, np.ndarray] = {}
        self._missing = set(range(run.num_agents))
        self._unfinished = set(range(run.num_agents))
        codec = EnvironmentCodec(cluster.run_id, env.spec, config.num_envs)
        self._context = zmq.Context()
        self._line = ServerLine(cluster.environment, codec, self._context)

    def run(self) -> None:
        """Serve all iterations, then say goodbye. However the run ends, the last states are saved.

        Raises:
            StopRequested: the run ends early; the agents are told.
            StorageError: a file cannot be written.
        """
        finished = False
        try:
            self._serve_until(lambda: not self._missing, lambda: self._missing)
            _LOG.info("all agents are here")
            extra = self._on_ready()
            ended = time.perf_counter()
            for iteration in range(self._start + 1, self._config.iterations + 1):
                rollout = self._rollout(iteration)
                now = time.perf_counter()
                self._record(iteration, now - ended, rollout, extra)
                ended, extra = now, {}
            self._serve_until(lambda: not self._unfinished, lambda: self._unfinished)
            finished = True
        except BaseException:
            ignore_stops()
            self._recorder.save()
            raise
        finally:
            for agent in range(self._shared.spec.num_agents):
                self._line.send(agent, Stop(finished))
            self._line.close()
            self._context.term()
            self._shared.env.close()

    def _first_steps(self, run: RunDirectory) -> list[AgentStep]:
        if self._start == 0:
            return self._shared.reset()
        arrays, _ = run.env.load_checkpoint(self._start)
        if not arrays:
            _LOG.warning("the state of %s cannot be saved: new episodes begin", self._shared.spec.name)
            return self._shared.reset()
        self._shared.load_state_dict(arrays)
        return self._shared.observe()

    def _rollout(self, iteration: int) -> float:
        """Run the T steps of an iteration; returns the seconds from the first joint action to the last step."""
        begin = time.perf_counter()
        for t in range(self._config.rollout_length):
            self._serve_until(lambda: len(self._actions) == len(self._steps), self._undecided)
            if t == 0:
                begin = time.perf_counter()
            joint_action = np.concatenate([self._actions[agent] for agent in range(len(self._steps))], axis=1)
            self._steps = self._shared.step(joint_action)
            self._actions = {}
            self._label = (iteration, t + 1)
            for agent in range(len(self._steps)):
                self._send_observation(agent)
        return time.perf_counter() - begin

    def _record(self, iteration: int, seconds: float, rollout: float, extra: dict[str, float]) -> None:
        metrics = environment_metrics(self._shared.take_metrics(), self._config.samples, seconds, rollout)
        self._recorder.record(iteration, metrics | extra, (self._shared.state_dict() or {}, {}))

    def _serve_until(self, satisfied: Callable[[], bool], waiting_for: Callable[[], set[int]]) -> None:
        """Take in messages until a condition holds, and log who is waited for now and then."""
        report_at = time.monotonic() + _PATIENCE
        while not satisfied():
            if self._line.socket.poll(int(_PATIENCE * 1000)):
                for message in self._line.receive():
                    self._take_in(message)
            if time.monotonic() >= report_at and not satisfied():
                _LOG.info("at step %s, waiting for agents %s", self._label, sorted(waiting_for()))
                report_at = time.monotonic() + _PATIENCE

    def _take_in(self, message: Hello | Action | Bye) -> None:
        agent = message.sender
        if isinstance(message, Bye):
            self._unfinished.discard(agent)
        elif isinstance(message, Action):
            if self._tick(message.iteration, message.t) == self._tick(*self._label):
                self._actions[agent] = message.action
        else:
            self._missing.discard(agent)
            if agent not in self._actions:
                self._send_observation(agent)

    def _send_observation(self, agent: int) -> None:
        self._line.send(agent, Observation(*self._label, self._steps[agent]))

    def _undecided(self) -> set[int]:
        return set(range(len(self._steps))) - set(self._actions)

    def _tick(self, iteration: int, t: int) -> int:
        return iteration * self._config.rollout_length + t


def serve(cluster: Cluster, start: int, on_ready: OnReady = dict) -> None:
    """Run the environment server of a cluster to its end.

    Raises:
        ConfigError: the run directory does not fit the cluster file, or a checkpoint cannot be read.
    """
    EnvironmentServer(cluster, RunDirectory.open(cluster.config.parent), start, on_ready).run()


def child_main(cluster: Cluster, start: int, supervision: Supervision) -> None:
    """The launcher's child process."""

    def on_ready() -> dict[str, float]:
        supervision.report.send_bytes(READY)
        return {"seconds_startup": time.time() - supervision.launched_at}

    directory = RunDirectory.open(cluster.config.parent).env
    run_supervised(TITLE, directory, supervision, lambda: serve(cluster, start, on_ready))
