from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from matrpo.config import Config
from matrpo.envs.registry import make_env, task_spec
from matrpo.launch.cluster import Cluster
from matrpo.launch.env_server import EnvironmentServer
from matrpo.launch.lines import AgentLine
from matrpo.launch.supervisor import make_cluster
from matrpo.launch.wire import Action, Bye, EnvironmentCodec, Hello, Observation, Stop
from matrpo.run_directory import RunDirectory
from matrpo.topology import make_graph

CONFIG = Config(agents=2, topology="line", num_envs=3, rollout_length=2, steps=12, checkpoint_every=1)


class Agents:
    """Two agents that do what the test says, and a server that serves them in a thread."""

    def __init__(self, run: RunDirectory, cluster: Cluster, context: zmq.Context[Any], start: int = 0) -> None:
        codec = EnvironmentCodec(cluster.run_id, task_spec(CONFIG.task, 2), CONFIG.num_envs)
        self.server = EnvironmentServer(cluster, run, start, dict)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.lines = [AgentLine(agent, cluster.environment, codec, context) for agent in range(2)]
        self.thread.start()

    def hear(self, agent: int) -> Observation | Stop:
        """The next message for an agent."""
        assert self.lines[agent].socket.poll(10_000)
        [message] = self.lines[agent].receive()
        return message

    def observe(self, agent: int) -> tuple[int, int]:
        """The step of the next observation for an agent."""
        message = self.hear(agent)
        assert isinstance(message, Observation)
        return message.iteration, message.t

    def hears_nothing(self, agent: int) -> bool:
        return not self.lines[agent].socket.poll(200)

    def act(self, agent: int, iteration: int, t: int, index: int = 1) -> None:
        action = np.full((CONFIG.num_envs, 1), index, np.float32)
        self.lines[agent].send(Action(agent, iteration, t, action))

    def finish(self) -> None:
        for agent, line in enumerate(self.lines):
            line.send(Bye(agent))
        assert [self.hear(agent) for agent in range(2)] == [Stop(True), Stop(True)]
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", CONFIG, {})


@pytest.fixture
def cluster(run: RunDirectory, tmp_path: Path) -> Cluster:
    return make_cluster(run, make_graph("line", 2, 0), tmp_path)


@pytest.fixture
def agents(run: RunDirectory, cluster: Cluster) -> Iterator[Agents]:
    with zmq.Context() as context:
        agents = Agents(run, cluster, context)
        yield agents
        for line in agents.lines:
            line.close()


def test_the_whole_run_in_lock_step(agents: Agents, run: RunDirectory) -> None:
    for agent, line in enumerate(agents.lines):
        line.send(Hello(agent))
    assert [agents.observe(agent) for agent in range(2)] == [(1, 0), (1, 0)]
    for iteration, t in ((1, 0), (1, 1), (2, 0), (2, 1)):
        agents.act(0, iteration, t)
        assert agents.hears_nothing(0), "agent 1 has not acted"
        agents.act(1, iteration, t)
        assert [agents.observe(agent) for agent in range(2)] == [(iteration, t + 1)] * 2
    agents.finish()
    assert [line["iteration"] for line in run.env.read_metrics()] == [1, 2]
    assert run.env.checkpoint_iterations() == [1, 2]


def test_agents_receive_their_own_view_and_the_joint_action(agents: Agents) -> None:
    expected = make_env(CONFIG.task, 2, CONFIG.num_envs, CONFIG.seed)
    first = expected.reset()
    second = expected.step(np.tile(np.array([[1, 2]], np.float32), (CONFIG.num_envs, 1)))
    for agent, line in enumerate(agents.lines):
        line.send(Hello(agent))
        message = agents.hear(agent)
        assert isinstance(message, Observation)
        np.testing.assert_array_equal(message.step.observation, first[agent])
    agents.act(0, 1, 0, index=1)
    agents.act(1, 1, 0, index=2)
    for agent in range(2):
        message = agents.hear(agent)
        assert isinstance(message, Observation)
        np.testing.assert_array_equal(message.step.observation, second.observations[agent])
        np.testing.assert_array_equal(message.step.reward, second.rewards[:, agent].astype(np.float32))
        np.testing.assert_array_equal(message.step.joint_action, [[1, 2]] * CONFIG.num_envs)


def test_late_early_and_repeated_actions_change_nothing(agents: Agents) -> None:
    for agent, line in enumerate(agents.lines):
        line.send(Hello(agent))
        agents.observe(agent)
    agents.act(0, 1, 1)
    agents.act(0, 2, 0)
    agents.act(0, 0, 0)
    agents.act(1, 1, 0)
    assert agents.hears_nothing(1), "none of them was agent 0's action at (1, 0)"
    agents.act(0, 1, 0)
    agents.act(0, 1, 0)
    assert [agents.observe(agent) for agent in range(2)] == [(1, 1), (1, 1)]
    agents.act(1, 1, 1)
    assert agents.hears_nothing(1), "the repeated action was for the step before"


def test_an_agent_that_repeats_itself_is_told_again(agents: Agents) -> None:
    for agent, line in enumerate(agents.lines):
        line.send(Hello(agent))
        agents.observe(agent)
    for agent in range(2):
        agents.act(agent, 1, 0)
    assert [agents.observe(agent) for agent in range(2)] == [(1, 1), (1, 1)]
    agents.lines[0].send(Hello(0))  # as if it had not heard that
    agents.act(0, 1, 0)
    assert agents.observe(0) == (1, 1)
    agents.act(0, 1, 1)
    agents.lines[0].send(Hello(0))
    assert agents.hears_nothing(0), "its action is here: there is nothing new to tell"


def test_a_resumed_server_shows_what_it_showed_last(run: RunDirectory, cluster: Cluster) -> None:
    shown = []
    for start in (0, 1):
        with zmq.Context() as context:
            agents = Agents(run, cluster, context, start)
            for agent, line in enumerate(agents.lines):
                line.send(Hello(agent))
                message = agents.hear(agent)
                assert isinstance(message, Observation)
            for iteration in range(start + 1, 3):
                for t in range(2):
                    for agent in range(2):
                        agents.act(agent, iteration, t, index=iteration + t)
                    for agent in range(2):
                        message = agents.hear(agent)
                        assert isinstance(message, Observation)
            shown.append(message.step.observation)
            agents.finish()
            for line in agents.lines:
                line.close()
    np.testing.assert_array_equal(shown[0], shown[1])
