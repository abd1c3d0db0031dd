"""An environment server crashes at any point and comes back: no sample is learnt from twice, or by one agent alone.

Nor is an episode that the crash ended remembered.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marks import slow

from matrpo.decentralized.agent import Agent
from matrpo.decentralized.lock_step.messages import Observation
from matrpo.envs.registry import task_spec
from matrpo.envs.shared import AgentStep
from matrpo.launch.processes import agent_process, env_server
from matrpo.launch.processes.agent_process import AgentProcess
from matrpo.launch.processes.env_server import EnvironmentServer
from matrpo.launch.processes.supervisor import make_cluster
from matrpo.launch.wire.channels import ServerChannel
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import Config
from matrpo.topology import make_graph

N, B, T, ITERATIONS = 3, 2, 4, 6


class CrashError(RuntimeError):
    """The server's end, as sudden as SIGKILL: no last word is said."""


def create_run(folder: Path, **changes: Any) -> RunDirectory:
    """A run of recurrent networks."""
    sizes = {"agents": N, "num_envs": B, "rollout_length": T, "steps": ITERATIONS * B * T, "hidden_sizes": (8,)}
    config = Config(**sizes, admm_iterations=12, recurrent_layers=1, chunk_length=2, **changes)
    return RunDirectory.create(folder / "run", config, {})


def work_together(*workers: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work, daemon=True) for work in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


class Learnt:
    """What each agent learnt from, by iteration; how often each began one without a memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (agent_process, env_server):
            monkeypatch.setattr(module, "ignore_stops", lambda: None)
        self.samples: dict[int, list[bytes]] = defaultdict(list)
        prepare, act = Agent.prepare_update, Agent.act
        self.seen: dict[int, dict[int, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
        self.fresh_starts: Counter[int] = Counter()

        def recorded_act(agent: Agent, step: AgentStep, first: int = 0) -> Any:
            self.seen[agent.agent_id][first].append(step.observation)
            begins = agent._rollout.t(first) in (0, T) and first == 0
            self.fresh_starts[agent.agent_id] += begins and not agent._actor.state.any()
            return act(agent, step, first)

        def recorded_prepare(agent: Agent, step: AgentStep, iteration: int) -> None:
            prepare(agent, step, iteration)
            self.samples[agent.agent_id].append(agent._rollout.joint_actions.numpy().tobytes())
            parts = [np.stack(seen[-T:]) for _, seen in sorted(self.seen[agent.agent_id].items())]
            seen = np.concatenate(parts, axis=1)
            np.testing.assert_array_equal(agent._rollout.observations.numpy(), seen.reshape(T * B, -1))

        monkeypatch.setattr(Agent, "act", recorded_act)
        monkeypatch.setattr(Agent, "prepare_update", recorded_prepare)


_MORE = [(2, (2, 2)), (0, (2, 4)), (1, (2, 4)), (1, (3, 1)), (0, (1, 1))]


@pytest.mark.parametrize(("agent", "label"), [(0, (2, 2)), (2, (2, 4)), (2, (6, 4)), *starmap(slow, _MORE)])
def test_a_server_that_crashes_between_any_two_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: int, label: tuple[int, int]
) -> None:
    """It crashes when it is about to send an observation to an agent: those with a smaller id have got theirs."""
    learnt = Learnt(monkeypatch)
    send, crashed = ServerChannel.send, threading.Event()

    def fragile_send(channel: ServerChannel, address: bytes, receiver: int, message: Any) -> bool:
        is_it = isinstance(message, Observation) and (receiver, message.iteration, message.t) == (agent, *label)
        if is_it and not crashed.is_set():
            crashed.set()
            raise CrashError
        return send(channel, address, receiver, message)

    monkeypatch.setattr(ServerChannel, "send", fragile_send)
    run = create_run(tmp_path)
    cluster = make_cluster(run, make_graph("ring", N, 0), tmp_path)

    def serve() -> None:
        try:
            EnvironmentServer(cluster, run, dict).run()
        except CrashError:
            EnvironmentServer(cluster, run, dict).run()

    agents = [AgentProcess(cluster, run, q, task_spec(run.config.task, N)) for q in range(N)]
    work_together(serve, *(each.run for each in agents))
    assert crashed.is_set()
    lines = {q: run.agent(q).read_metrics() for q in range(N)}
    learners: dict[int, set[bytes]] = defaultdict(set)
    for q in range(N):
        iterations = [line["iteration"] for line in lines[q]]
        assert iterations == sorted(set(iterations))
        assert iterations[-1] == ITERATIONS or label == (ITERATIONS, T)
        assert learnt.fresh_starts[q] == 2 or label == (ITERATIONS, T)
        assert len(iterations) == len(learnt.samples[q]) == len(set(learnt.samples[q]))
        for iteration, samples in zip(iterations, learnt.samples[q], strict=True):
            learners[iteration].add(samples)
    assert all(len(samples) == 1 for samples in learners.values()), "all who learn in an iteration have its samples"


@pytest.mark.parametrize("label", [(2, 0), (6, 4), *map(slow, [(2, 2), (1, 1), (2, 4), (3, 1)])])
@pytest.mark.parametrize(("server", "agent"), [(0, 1), (1, 0), (1, 2)])
def test_one_of_two_servers_that_crashes_between_any_two_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: int, agent: int, label: tuple[int, int]
) -> None:
    """The other goes on or begins again as the agents say; none mixes the samples of two attempts."""
    learnt = Learnt(monkeypatch)
    run = create_run(tmp_path, env_servers=2)
    cluster = make_cluster(run, make_graph("ring", N, 0), tmp_path)
    servers = [EnvironmentServer(cluster, run, dict, number) for number in range(2)]
    fragile, send, crashed = servers[server]._channel, ServerChannel.send, threading.Event()

    def fragile_send(channel: ServerChannel, address: bytes, receiver: int, message: Any) -> bool:
        is_it = isinstance(message, Observation) and (receiver, message.iteration, message.t) == (agent, *label)
        is_last = label[1] == 0 and isinstance(message, Observation) and message.iteration == label[0]
        if channel is fragile and (is_it or is_last) and not crashed.is_set():
            crashed.set()
            raise CrashError
        return send(channel, address, receiver, message)

    monkeypatch.setattr(ServerChannel, "send", fragile_send)

    def serve(number: int) -> None:
        try:
            servers[number].run()
        except CrashError:
            EnvironmentServer(cluster, run, dict, number).run()

    agents = [AgentProcess(cluster, run, q, task_spec(run.config.task, N)) for q in range(N)]
    work_together(lambda: serve(0), lambda: serve(1), *(each.run for each in agents))
    assert crashed.is_set()
    learners: dict[int, set[bytes]] = defaultdict(set)
    for q in range(N):
        iterations = [line["iteration"] for line in run.agent(q).read_metrics()]
        assert iterations == sorted(set(iterations))
        assert iterations[-1] >= ITERATIONS - 1
        assert len(iterations) >= ITERATIONS - 1, "at most the iteration of the crash is lost"
        assert len(iterations) == len(learnt.samples[q]) == len(set(learnt.samples[q]))
        for iteration, samples in zip(iterations, learnt.samples[q], strict=True):
            learners[iteration].add(samples)
    assert all(len(samples) == 1 for samples in learners.values()), "all who learn in an iteration have its samples"
    assert [line["iteration"] for line in run.environment_metrics()][-1] >= ITERATIONS - 1


def test_an_agent_that_crashes_and_is_back_does_not_take_up_the_episodes_of_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All wait for it, and begin the iteration again where the environment is."""
    learnt = Learnt(monkeypatch)
    run = create_run(tmp_path, checkpoint_every=1, on_agent_loss="wait")
    cluster = make_cluster(run, make_graph("ring", N, 0), tmp_path)
    spec = task_spec(run.config.task, N)
    crashed = threading.Event()
    act = Agent.act

    def fragile_act(agent: Agent, step: AgentStep, first: int = 0) -> Any:
        if agent.agent_id == 1 and len(learnt.seen[1][0]) == 2 * T + 2 and not crashed.is_set():
            crashed.set()
            raise CrashError
        return act(agent, step, first)

    monkeypatch.setattr(Agent, "act", fragile_act)

    def returning() -> None:
        with pytest.raises(CrashError):
            AgentProcess(cluster, run, 1, spec).run()
        assert run.agent(1).load_checkpoint(2)[0]["memory.policy"].any()
        AgentProcess(cluster, run, 1, spec).run()

    others = [AgentProcess(cluster, run, q, spec).run for q in (0, 2)]
    work_together(EnvironmentServer(cluster, run, dict).run, returning, *others)
    assert crashed.is_set()
    for q in range(N):
        assert [line["iteration"] for line in run.agent(q).read_metrics()] == list(range(1, ITERATIONS + 1))
        assert learnt.fresh_starts[q] == 2
