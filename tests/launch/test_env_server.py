from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from matrpo.config import Config
from matrpo.envs.registry import make_env, task_spec
from matrpo.envs.shared import AgentStep, SharedEnvironment
from matrpo.launch import env_server
from matrpo.launch.cluster import Cluster
from matrpo.launch.env_server import EnvironmentServer
from matrpo.launch.lines import AgentLine
from matrpo.launch.supervisor import make_cluster
from matrpo.launch.wire import Action, Bye, EnvironmentCodec, Hello, Observation, Stop
from matrpo.run_directory import RunDirectory
from matrpo.spaces import Discrete, TaskSpec
from matrpo.topology import make_graph

CONFIG = Config(agents=2, topology="line", num_envs=3, rollout_length=2, steps=12, checkpoint_every=1)


class Agents:
    """Agents that do what the test says, two unless the run has more, and a server that serves them in a thread."""

    def __init__(self, run: RunDirectory, cluster: Cluster, context: zmq.Context[Any]) -> None:
        self._cluster = cluster
        self._context = context
        config = run.config
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

    def _dial(self, agent: int) -> AgentLine:
        return AgentLine(agent, self._cluster.environment, self._codec, self._context)

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

    def hear(self, agent: int) -> Observation | Stop:
        """The next message for an agent."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.lines[agent].socket.poll(1000) and (messages := self.lines[agent].receive()):
                [message] = messages
                return message
        raise AssertionError("nothing came")

    def observe(self, agent: int) -> tuple[int, int]:
        """The step of the next observation for an agent."""
        message = self.hear(agent)
        assert isinstance(message, Observation)
        self.number = message.attempt
        return message.iteration, message.t

    def hears_nothing(self, agent: int) -> bool:
        return not (self.lines[agent].socket.poll(200) and self.lines[agent].receive())

    def act(self, agent: int, iteration: int, t: int, index: int = 1) -> None:
        self.do(agent, iteration, t, np.full((CONFIG.num_envs, 1), index, np.float32))

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
        self.end()

    def end(self) -> None:
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture(autouse=True)
def _in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the main thread may choose what happens at signals."""
    monkeypatch.setattr(env_server, "ignore_stops", lambda: None)


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
    agents.join()
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
    for agent in range(2):
        agents.hello(agent)
    for agent in range(2):
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


@pytest.mark.parametrize(
    ("task", "agents", "reward"),
    [
        ("navigation", 2, "own"),
        ("treasure", 4, "own"),
        ("game/differentiable", 2, "own"),
        ("game/opposite-halves", 2, "own"),
        ("mpe2/simple_spread_v3", 2, "own"),
        ("mpe2/simple_speaker_listener_v4-continuous", 2, "own"),
        ("mpe2/simple_push_v3", 2, "own"),
        ("mamujoco/Hopper-3x1", 3, "own"),
        ("smax/3s_vs_5z", 3, "one-agent"),
        ("pettingzoo/mpe2.simple_crypto_v3:parallel_env", 3, "own"),
    ],
)
def test_a_trajectory_is_bit_for_bit_that_of_the_task_stepped_directly(
    task: str, agents: int, reward: str, tmp_path: Path
) -> None:
    length, num_envs = 110, 2
    config = dataclasses.replace(
        CONFIG,
        task=task,
        agents=agents,
        reward=reward,
        num_envs=num_envs,
        rollout_length=length,
        steps=length * num_envs,
    )
    env = make_env(task, agents, num_envs, config.seed)
    direct = SharedEnvironment(env, config.gamma, config.reward_scaling, reward)
    spec = direct.spec
    actions = random_actions(spec, length, num_envs)
    run = RunDirectory.create(tmp_path / "run", config, {})
    expected = direct.reset()
    with zmq.Context() as context:
        peers = Agents(run, make_cluster(run, make_graph("line", agents, 0), tmp_path), context)
        for agent in range(agents):
            peers.hello(agent)
        for t in range(length + 1):
            for agent in range(agents):
                message = peers.hear(agent)
                assert isinstance(message, Observation)
                assert message.t == t
                peers.number = message.attempt
                assert_same_bits(message.step, expected[agent])
            if t < length:
                for agent in range(agents):
                    peers.do(agent, 1, t, actions[t][:, spec.action_slices[agent]])
                expected = direct.step(actions[t])
        peers.finish()
        for line in peers.lines:
            line.close()
    env.close()


def random_actions(spec: TaskSpec, length: int, num_envs: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    actions = np.empty((length, num_envs, spec.joint_action_width), np.float32)
    for space, part in zip(spec.action_spaces, spec.action_slices, strict=True):
        shape = actions[..., part].shape
        actions[..., part] = rng.integers(0, space.n, shape) if isinstance(space, Discrete) else rng.normal(size=shape)
    return actions


def assert_same_bits(one: AgentStep, other: AgentStep) -> None:
    for field in dataclasses.fields(AgentStep):
        left, right = getattr(one, field.name), getattr(other, field.name)
        assert (left is None) == (right is None), field.name
        if left is not None:
            assert (left.dtype, left.shape) == (right.dtype, right.shape), field.name
            assert left.tobytes() == right.tobytes(), field.name


def test_late_early_and_repeated_actions_change_nothing(agents: Agents) -> None:
    agents.join()
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
    agents.join()
    for agent in range(2):
        agents.act(agent, 1, 0)
    assert [agents.observe(agent) for agent in range(2)] == [(1, 1), (1, 1)]
    agents.hello(0)  # as if it had not heard that
    agents.act(0, 1, 0)
    assert agents.observe(0) == (1, 1)
    agents.act(0, 1, 1)
    agents.hello(0)
    assert agents.hears_nothing(0), "its action is here: there is nothing new to tell"


def test_a_resumed_server_shows_what_it_showed_last(run: RunDirectory, tmp_path: Path) -> None:
    shown = []
    for start in (0, 1):
        run.rewind(start)
        with zmq.Context() as context:
            agents = Agents(run, make_cluster(run, make_graph("line", 2, 0), tmp_path), context)
            agents.join(start + 1)
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


def test_without_an_agent_the_other_goes_on_and_it_takes_part_again_from_the_next_start(
    agents: Agents, run: RunDirectory
) -> None:
    agents.join()
    agents.step((0, 1), 1, 0)
    agents.leave(1)
    agents.act(0, 1, 1)
    message = agents.hear(0)
    assert isinstance(message, Observation)
    assert (message.iteration, message.t) == (1, 2)
    np.testing.assert_array_equal(message.step.joint_action, [[1, 0]] * CONFIG.num_envs)
    assert agents.step([0], 2, 0) == [(2, 1)]
    agents.come_back(1, 1)
    assert agents.hears_nothing(1), "iteration 2 is running"
    assert agents.step([0], 2, 1) == [(2, 2)]
    assert agents.observe(1) == (3, 0)
    agents.finish()
    assert [(line["agents_absent"], line["steps_substituted"]) for line in run.env.read_metrics()] == [(1, 1), (1, 2)]


def test_an_agent_that_returns_before_anyone_has_acted_misses_nothing(agents: Agents) -> None:
    agents.join()
    agents.step((0, 1), 1, 0)
    agents.step((0, 1), 1, 1)
    agents.leave(1)
    agents.come_back(1, 1)
    assert agents.observe(1) == (2, 0)
    assert agents.step((0, 1), 2, 0) == [(2, 1), (2, 1)]


def test_a_connection_that_is_replaced_at_once_costs_nothing(agents: Agents) -> None:
    agents.join()
    agents.step((0, 1), 1, 0)
    agents.come_back(1, 1, reborn=False)
    assert agents.observe(1) == (1, 1)
    assert agents.step((0, 1), 1, 1) == [(1, 2), (1, 2)]


def test_a_hello_of_an_earlier_life_is_refused(agents: Agents) -> None:
    agents.join()
    agents.come_back(1, 1)
    assert agents.observe(1) == (1, 0)
    agents.incarnations[1] = 1
    agents.hello(1)
    assert agents.hears_nothing(1)


def test_when_all_are_lost_the_iteration_begins_again(
    agents: Agents, run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    agents.join()
    agents.step((0, 1), 1, 0)
    first = agents.number
    for agent in range(2):
        agents.leave(agent)
    wait_until(lambda: sum("is lost at step (1, 1)" in line for line in caplog.messages) == 2)
    for agent in range(2):
        agents.come_back(agent, 1, reborn=False)
    assert [agents.observe(agent) for agent in range(2)] == [(1, 0), (1, 0)]
    assert agents.number > first, "who sees this throws away what it has of iteration 1"
    for iteration, t in ((1, 0), (1, 1), (2, 0), (2, 1)):
        agents.step((0, 1), iteration, t)
    agents.finish()
    assert [line["agents_absent"] for line in run.env.read_metrics()] == [0, 0]


@pytest.mark.parametrize("rule", ["wait", "abort"])
def test_the_rules_wait_and_abort(tmp_path: Path, rule: str) -> None:
    run = RunDirectory.create(tmp_path / "run", dataclasses.replace(CONFIG, on_agent_loss=rule), {})
    with zmq.Context() as context:
        agents = Agents(run, make_cluster(run, make_graph("line", 2, 0), tmp_path), context)
        agents.join()
        agents.step((0, 1), 1, 0)
        agents.leave(1)
        if rule == "abort":
            assert agents.hear(0) == Stop(False)
            agents.end()
            assert str(agents.failure) == "agent 1 is lost, and on_agent_loss is abort"
            agents.leave(0)
        else:
            agents.act(0, 1, 1)
            assert agents.hears_nothing(0), "all wait"
            first = agents.number
            agents.come_back(1, 1)
            assert [agents.observe(agent) for agent in range(2)] == [(1, 0), (1, 0)], "its samples are gone"
            assert agents.number > first
            for iteration, t in ((1, 0), (1, 1), (2, 0), (2, 1)):
                agents.step((0, 1), iteration, t)
            agents.finish()
            for line in agents.lines:
                line.close()


def test_a_server_that_crashed_begins_new_episodes(
    run: RunDirectory, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zmq.Context() as context:
        agents = Agents(run, cluster, context)
        agents.join()
        for t in range(2):
            agents.step((0, 1), 1, t)
        with monkeypatch.context() as patch:
            patch.setattr(SharedEnvironment, "step", crash)
            for agent in range(2):
                agents.act(agent, 2, 0)
            agents.end()
        assert str(agents.failure) == "crash"
        for line in agents.lines:
            assert line.receive() == [], "nobody is told to stop: the server may come back"
            line.close()
        agents = Agents(run, cluster, context)
        for agent in range(2):
            agents.hello(agent, 2)
        messages = [agents.hear(agent) for agent in range(2)]
        for message in messages:
            assert isinstance(message, Observation)
            assert (message.attempt, message.iteration, message.t) == (2, 2, 0)
            assert message.step.reward_scale[0] != 1, "the reward scale is kept"
        fresh = make_env(CONFIG.task, 2, CONFIG.num_envs, CONFIG.seed).reset()
        assert not np.array_equal(messages[0].step.observation, fresh[0]), "no episode is played twice"
        for t in range(2):
            agents.step((0, 1), 2, t)
        agents.finish()
        for line in agents.lines:
            line.close()
    assert [line["iteration"] for line in run.env.read_metrics()] == [1, 2]
    assert run.episode_stream(2) == 2


def test_a_server_that_is_back_goes_on_without_those_that_do_not_come(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", dataclasses.replace(CONFIG, link_deadline=0.5), {})
    cluster = make_cluster(run, make_graph("line", 2, 0), tmp_path)
    run.env.begin_incarnation(cluster.run_id)
    run.env.log_metrics({"iteration": 1})
    with zmq.Context() as context:
        agents = Agents(run, cluster, context)
        agents.hello(0, 2)
        assert agents.observe(0) == (2, 0)
        agents.hello(1, 2)
        assert agents.observe(1) == (2, 0), "nobody has acted yet"
        for t in range(2):
            agents.step((0, 1), 2, t)
        agents.finish()
        for line in agents.lines:
            line.close()


def crash(*_: object) -> None:
    raise RuntimeError("crash")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        zmq.select([], [], [], 0.01)
