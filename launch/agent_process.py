"""An agent's process: it acts, learns, and talks with its neighbours. Nobody tells it what to do."""

from __future__ import annotations

import logging
import math
import time

import numpy as np
import torch
import zmq

from matrpo.build import build_agent, build_peer
from matrpo.envs.registry import task_spec
from matrpo.envs.shared import AgentStep
from matrpo.launch.cluster import Cluster
from matrpo.launch.lines import AgentLine
from matrpo.launch.process import StopRequested, Supervision, ignore_stops, run_supervised
from matrpo.launch.transport import LinkTransport
from matrpo.launch.wire import Action, Bye, EnvironmentCodec, Hello, LinkCodec, Observation, Stop
from matrpo.recorder import PhaseClock, Recorder, agent_metrics
from matrpo.run_directory import RunDirectory
from matrpo.spaces import TaskSpec

_LOG = logging.getLogger(__name__)
_REPEAT = 5.0
"""Seconds after which an unanswered message to the environment server is said again."""

_RETRY = 0.05
"""Seconds after which what could not be sent is tried again."""

_GOODBYES = 3


class AgentProcess:
    """Agent q, its links and its line to the environment server.

    Args:
        cluster: where the processes are.
        run: the run directory.
        agent: q.
        spec: the task's spaces.
        start: the iteration to continue from; 0 for a new run.
    """

    def __init__(self, cluster: Cluster, run: RunDirectory, agent: int, spec: TaskSpec, start: int) -> None:
        config, graph = run.config, cluster.graph
        torch.set_num_threads(config.torch_threads)
        self._config = config
        self._id = agent
        self._start = start
        self._agent = build_agent(agent, graph, spec, config)
        if start:
            self._agent.load_state_dict(*run.agent(agent).load_checkpoint(start))
        self._recorder = Recorder(run, run.agent(agent), spec, start)
        self._peer = build_peer(agent, graph, config)
        self._clock = PhaseClock()
        self._context = zmq.Context()
        links = LinkCodec(cluster.run_id, spec.num_agents, len(graph.links), config.samples, config.wire_dtype)
        environment = EnvironmentCodec(cluster.run_id, spec, config.num_envs)
        self._links = LinkTransport(agent, graph, cluster.endpoints, links, self._context)
        self._line = AgentLine(agent, cluster.environment, environment, self._context)
        self._poller = zmq.Poller()
        for socket in (self._line.socket, *self._links.sockets):
            self._poller.register(socket, zmq.POLLIN)

    def run(self) -> None:
        """Learn until the last iteration. However the run ends, the last states are saved.

        Raises:
            StopRequested: the run ends early.
            StorageError: a file cannot be written.
        """
        try:
            self._meet_neighbours()
            step = self._ask(Hello(self._id), (self._start + 1, 0))
            for iteration in range(self._start + 1, self._config.iterations + 1):
                step = self._iterate(iteration, step)
            self._say_goodbye()
        except BaseException:
            ignore_stops()
            self._recorder.save()
            raise
        finally:
            self._links.close()
            self._line.close()
            self._context.term()

    def _iterate(self, iteration: int, step: AgentStep) -> AgentStep:
        """One iteration, from and to the observation between two rollouts."""
        with self._clock.phase("rollout"):
            for t in range(self._config.rollout_length):
                action = self._agent.act(step)
                if not np.isfinite(action).all():
                    raise FloatingPointError(f"the policy's action is not finite in iteration {iteration}, step {t}")
                step = self._ask(Action(self._id, iteration, t, action), (iteration, t + 1))
        with self._clock.phase("prepare"):
            self._agent.prepare_update(step)
        with self._clock.phase("consensus"):
            self._agree(iteration)
        with self._clock.phase("finish"):
            learning = self._agent.finish_update()
        metrics = agent_metrics(learning, self._peer, self._clock, self._links.traffic)
        self._recorder.record(iteration, metrics, self._agent.state_dict())
        return step

    def _meet_neighbours(self) -> None:
        """Wait until all neighbours that this agent dials are connected, but not for ever."""
        deadline = time.monotonic() + self._config.link_deadline
        while not self._links.greet() and time.monotonic() < deadline:
            self._pump(deadline)

    def _agree(self, iteration: int) -> None:
        """Run the consensus phase to its end."""
        shape = (len(self._agent.spec.agents), self._config.samples)
        self._peer.begin(iteration, self._agent.step, shape, time.monotonic())
        self._send_links()
        while not self._peer.done:
            self._pump(math.inf)

    def _ask(self, question: Hello | Action, expected: tuple[int, int]) -> AgentStep:
        """Say something to the environment server, again and again, until the observation of a step arrives."""
        say_at, said = 0.0, False
        while True:
            now = time.monotonic()
            if now >= say_at:
                if said:
                    self._line.send(Hello(self._id))
                said = self._line.send(question)
                say_at = now + (_REPEAT if said else _RETRY)
            for observation in self._pump(say_at):
                if (observation.iteration, observation.t) == expected:
                    return observation.step

    def _say_goodbye(self) -> None:
        """Go on answering neighbours until the environment server has heard from all agents that they are done."""
        try:
            for _ in range(_GOODBYES):
                self._line.send(Bye(self._id))
                until = time.monotonic() + _REPEAT
                while time.monotonic() < until:
                    self._pump(until)
        except _RunOver:
            return
        _LOG.warning("the environment server does not answer a goodbye: finished without it")

    def _pump(self, until: float) -> list[Observation]:
        """Wait for messages, but not beyond a time; handle those of the links and return those of the server.

        Raises:
            StopRequested: the server says that the run ends early.
            _RunOver: the server says that all agents are done.
        """
        now = time.monotonic()
        event = self._peer.next_event()
        wake_at = min(until, math.inf if event is None else event, now + 1.0)
        if not self._links.greet():
            wake_at = min(wake_at, now + _RETRY)
        self._poller.poll(math.ceil(max(0.0, wake_at - now) * 1000))
        for message in self._links.receive():
            self._peer.receive(message, time.monotonic())
            self._send_links()
        self._peer.tick(time.monotonic())
        self._send_links()
        answers = self._line.receive()
        for answer in answers:
            if isinstance(answer, Stop):
                raise _RunOver if answer.finished else StopRequested
        return [answer for answer in answers if isinstance(answer, Observation)]

    def _send_links(self) -> None:
        for neighbour, message in self._peer.take_outbox():
            self._links.send(neighbour, message)


class _RunOver(Exception):  # noqa: N818
    """All agents are done."""


def learn(cluster: Cluster, agent: int, start: int) -> None:
    """Run one agent of a cluster to its end.

    Raises:
        ConfigError: the run directory does not fit the cluster file, or a checkpoint cannot be read.
    """
    run = RunDirectory.open(cluster.config.parent)
    spec = task_spec(run.config.task, run.config.agents)
    AgentProcess(cluster, run, agent, spec, start).run()


def child_main(cluster: Cluster, agent: int, start: int, supervision: Supervision) -> None:
    """The launcher's child process."""
    directory = RunDirectory.open(cluster.config.parent).agent(agent)
    run_supervised(f"matrpo agent {agent}", directory, supervision, lambda: learn(cluster, agent, start))
