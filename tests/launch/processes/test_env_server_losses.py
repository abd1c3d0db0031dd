"""What the environment server does when agents, or itself, are lost and come back."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zmq
from scripted_agents import CONFIG, Agents, line_cluster, scripted_agents

from matrpo.decentralized.lock_step.messages import Observation, Outdated, Stop
from matrpo.envs.particle.navigation import NavigationEnv
from matrpo.envs.registry import make_env
from matrpo.envs.shared import SharedEnvironment
from matrpo.launch.processes.process import StopRequested
from matrpo.runs.run_directory import RunDirectory


def last_of_an_iteration_that_the_second_left(agents: Agents) -> Observation:
    """What the first agent hears when it has acted without the second."""
    agents.join()
    agents.step((0, 1), 1, 0)
    agents.leave(1)
    agents.act(0, 1, 1)
    message = agents.hear(0)
    assert isinstance(message, Observation)
    return message


def test_without_an_agent_the_other_goes_on_and_it_takes_part_again_from_the_next_start(
    agents: Agents, small_run: RunDirectory
) -> None:
    message = last_of_an_iteration_that_the_second_left(agents)
    assert (message.iteration, message.t) == (1, 2)
    np.testing.assert_array_equal(message.step.joint_action, [[1, 0]] * CONFIG.num_envs)
    assert agents.step([0], 2, 0) == [(2, 1)]
    agents.come_back(1, 1)
    assert agents.hears_nothing(1), "iteration 2 is running"
    assert agents.step([0], 2, 1) == [(2, 2)]
    assert agents.observe(1) == (3, 0)
    agents.finish()
    lines = small_run.env.read_metrics()
    assert [(line["agents_absent"], line["steps_substituted"]) for line in lines] == [(1, 1), (1, 2)]


def test_the_task_s_default_actions_stand_in_for_an_agent_that_is_gone(
    agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NavigationEnv, "default_actions", lambda env: env.spec.noop(env.num_envs) + 3)
    message = last_of_an_iteration_that_the_second_left(agents)
    np.testing.assert_array_equal(message.step.joint_action, [[1, 3]] * CONFIG.num_envs)


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


def test_a_hello_of_an_earlier_life_is_told_of_the_later_one(agents: Agents) -> None:
    agents.join()
    agents.come_back(1, 1)
    assert agents.observe(1) == (1, 0)
    agents.incarnations[1] = 1
    agents.hello(1)
    assert agents.hear(1) == Outdated(2)
    assert agents.step((0, 1), 1, 0) == [(1, 1), (1, 1)], "its other messages are the agent's, whoever says hello"
    agents.step((0, 1), 1, 1)


def test_when_all_are_lost_the_iteration_begins_again(
    agents: Agents, small_run: RunDirectory, caplog: pytest.LogCaptureFixture
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
    assert [line["agents_absent"] for line in small_run.env.read_metrics()] == [0, 0]


@pytest.mark.parametrize("rule", ["wait", "abort"])
def test_the_rules_wait_and_abort(tmp_path: Path, rule: str) -> None:
    run = RunDirectory.create(tmp_path / "run", dataclasses.replace(CONFIG, on_agent_loss=rule), {})
    with scripted_agents(run, line_cluster(run, tmp_path)) as agents:
        agents.join()
        agents.step((0, 1), 1, 0)
        agents.leave(1)
        if rule == "abort":
            assert agents.hear(0) == Stop(False)
            agents.hang_up()
            assert str(agents.failure) == "agent 1 is lost, and on_agent_loss is abort"
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


def test_a_server_that_crashed_begins_new_episodes(
    small_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = line_cluster(small_run, tmp_path)
    with scripted_agents(small_run, cluster) as agents:
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
    with scripted_agents(small_run, cluster) as agents:
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
    assert [line["iteration"] for line in small_run.env.read_metrics()] == [1, 2]
    assert small_run.episode_stream(2) == 2


def test_a_server_that_is_back_goes_on_without_those_that_do_not_come(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", dataclasses.replace(CONFIG, link_deadline=0.5), {})
    cluster = line_cluster(run, tmp_path)
    run.env.begin_incarnation(cluster.run_id)
    run.env.log_metrics({"iteration": 1})
    with scripted_agents(run, cluster) as agents:
        agents.hello(0, 2)
        assert agents.observe(0) == (2, 0)
        agents.hello(1, 2)
        assert agents.observe(1) == (2, 0), "nobody has acted yet"
        for t in range(2):
            agents.step((0, 1), 2, t)
        agents.finish()


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_stop_in_the_middle_of_a_message_is_heard_by_all(
    agents: Agents, monkeypatch: pytest.MonkeyPatch, frames: int
) -> None:
    agents.join()
    send = zmq.Socket.send_multipart

    def cut(socket: zmq.Socket[bytes], parts: list[bytes], *args: object, **options: object) -> object:
        if threading.current_thread() is not agents.thread or len(parts) <= frames:
            return send(socket, parts, *args, **options)
        monkeypatch.undo()
        for part in parts[:frames]:
            socket.send(part, zmq.SNDMORE)
        raise StopRequested

    monkeypatch.setattr(zmq.Socket, "send_multipart", cut)
    for agent in range(2):
        agents.act(agent, 1, 0)
    assert [agents.last_word(agent) for agent in range(2)] == [Stop(False)] * 2
    agents.hang_up()
    assert isinstance(agents.failure, StopRequested)


def crash(*_: object) -> None:
    raise RuntimeError("crash")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        zmq.select([], [], [], 0.01)
