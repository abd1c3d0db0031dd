"""Agents that do what a test says, each at its end of a real line to a real environment server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import zmq

from matrpo.decentralized.lock_step.messages import Action, Bye, Hello, Observation, Outdated, Stop
from matrpo.envs.registry import task_spec
from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.launch.processes import env_server
from matrpo.launch.processes.env_server import EnvironmentServer
from matrpo.launch.processes.supervisor import make_cluster
from matrpo.launch.wire.channels import AgentChannel
from matrpo.launch.wire.environment_codec import EnvironmentCodec
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import Config
from matrpo.topology import make_graph

CONFIG = Config(agents=2, topology="line", num_envs=3, rollout_length=2, steps=12, checkpoint_every=1)


def line_cluster(run: RunDirectory, folder: Path) -> Cluster:
    """The addresses of a run's processes, with its sockets in a folder."""
    return make_cluster(run, make_graph("line", run.num_agents, 0), folder)


@contextmanager
def scripted_agents(run: RunDirectory, cluster: Cluster) -> Iterator[Agents]:
    """The agents of a run and its server, which leaves signals alone: only a main thread may choose what they do."""
    with zmq.Context() as context, mock.patch.object(env_server, "ignore_stops"):
        agents = Agents(run, cluster, context)
        try:
            yield agents
        finally:
            agents.close()


class Agents:
    """Agents that do what the test says, and a server that serves them in a thread."""

    def __init__(self, run: RunDirectory, cluster: Cluster, context: zmq.Context[Any]) -> None:
        self._cluster = cluster
        self._context = context
        config = run.config
        self._num_envs = config.num_envs
        self._codec = EnvironmentCodec(cluster.run_id, task_spec(config.task, config.agents), config.num_envs)
        self.incarnations = [1] * run.num_agents
        self.server = EnvironmentServer(cluster, run, dict)
        self.number = int(json.loads((run.env.path / "incarnation.json").read_text())["incarnation"])
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.lines = [self._dial(agent) for agent in range(run.num_agents)]
        self.thread.start()

    def _serve(self) -> None:
        try:
            self.server.run()
        except BaseException as error:
            self.failure = error

    def _dial(self, agent: int) -> AgentChannel:
        return AgentChannel(agent, self._cluster.servers[0], self._codec, self._context)

    def say(self, agent: int, message: Hello | Action | Bye) -> None:
        line = self.lines[agent]
        deadline = time.monotonic() + 10
        while [line.monitor.changes()] and not line.send(message):
            assert time.monotonic() < deadline
            zmq.select([], [], [], 0.01)

    def join(self, iteration: int = 1) -> None:
        """Take part from the start of an iteration on."""
        for agent in range(2):
            self.hello(agent, iteration)
        assert [self.observe(agent) for agent in range(2)] == [(iteration, 0)] * 2

    def hello(self, agent: int, iteration: int = 1) -> None:
        self.say(agent, Hello(agent, self.incarnations[agent], iteration))

    def leave(self, agent: int) -> None:
        """Be gone as if killed."""
        self.lines[agent].close()

    def come_back(self, agent: int, iteration: int, reborn: bool = True) -> None:
        self.incarnations[agent] += reborn
        self.lines[agent] = self._dial(agent)
        self.hello(agent, iteration)

    def hear(self, agent: int) -> Observation | Outdated | Stop:
        """The next message for an agent."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.lines[agent].socket.poll(1000) and (messages := self.lines[agent].receive()):
                [message] = messages
                return message
        raise AssertionError("nothing came")

    def last_word(self, agent: int) -> Stop:
        """What an agent hears at the end, whatever it is told before."""
        while not isinstance(message := self.hear(agent), Stop):
            pass
        return message

    def observe(self, agent: int) -> tuple[int, int]:
        """The step of the next observation for an agent."""
        message = self.hear(agent)
        assert isinstance(message, Observation)
        self.number = message.attempt
        return message.iteration, message.t

    def hears_nothing(self, agent: int) -> bool:
        return not (self.lines[agent].socket.poll(200) and self.lines[agent].receive())

    def act(self, agent: int, iteration: int, t: int, index: int = 1) -> None:
        self.do(agent, iteration, t, np.full((self._num_envs, 1), index, np.float32))

    def do(self, agent: int, iteration: int, t: int, action: np.ndarray) -> None:
        self.say(agent, Action(agent, self.number, iteration, t, action))

    def step(self, agents: Iterable[int], iteration: int, t: int) -> list[tuple[int, int]]:
        """Let agents act, and return what they observe then."""
        for agent in agents:
            self.act(agent, iteration, t)
        return [self.observe(agent) for agent in agents]

    def finish(self) -> None:
        everyone = range(len(self.lines))
        for agent in everyone:
            self.say(agent, Bye(agent))
        assert [self.hear(agent) for agent in everyone] == [Stop(True)] * len(everyone)
        self.hang_up()

    def hang_up(self) -> None:
        """Close all lines, as agents do that have heard the last word, and so let the server end."""
        self.close()
        self.end()

    def end(self) -> None:
        self.thread.join(10)
        assert not self.thread.is_alive()

    def close(self) -> None:
        """Close all lines that are open."""
        for line in self.lines:
            if not line.socket.closed:
                line.close()
