"""What an admitted agent says changes that agent's part: the others see what they see without it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_agents import CONFIG, line_cluster, scripted_agents

from matrpo.decentralized.lock_step.messages import Action, Bye, Hello, Observation
from matrpo.runs.run_directory import RunDirectory

ITERATIONS, T, N = 4, 2, 3
LIAR = 2
FINISHES = dataclasses.replace(CONFIG, agents=N, steps=ITERATIONS * T * CONFIG.num_envs, agent_deadline=1.0)
NUMBERS = (0, 1, 2**31, 2**52, 2**53 - 1)
TRUTHS: tuple[Hello | Action | Bye, ...] = (
    Hello(LIAR, 1, 2, 1),
    Action(LIAR, 1, 2, 1, np.ones((CONFIG.num_envs, 1), np.float32)),
    Bye(LIAR),
)
LIES = [Bye(LIAR)] + [
    dataclasses.replace(truth, **{field.name: number})
    for truth in TRUTHS
    for field in dataclasses.fields(truth)
    if field.name not in ("sender", "action")
    for number in NUMBERS
    if number != getattr(truth, field.name)
]
"""Every number of every message that an agent may send, the message's kind by kind."""

VALUES = [-1.0, 0.5, 99.0, 1e19, float("nan"), float("inf")]
"""What no action may be."""


def seen_by_the_others(folder: Path, lies: list[Hello | Action | Bye]) -> tuple[list[Any], RunDirectory]:
    """What agents 0 and 1 observe in a run in which the last agent lies, and leaves, in iteration 2."""
    run = RunDirectory.create(folder / "run", FINISHES, {})
    seen: list[Any] = []

    def hear(agent: int) -> None:
        message = agents.hear(agent)
        assert isinstance(message, Observation)
        step = message.step
        arrays = (step.observation, step.reward, step.joint_action, step.terminated, step.truncated)
        seen.append((agent, message.iteration, message.t, message.attempt, *(array.tolist() for array in arrays)))

    with scripted_agents(run, line_cluster(run, folder)) as agents:
        for agent in range(N):
            agents.hello(agent)
        for agent in range(N):
            hear(agent)
        for iteration in range(1, ITERATIONS + 1):
            for t in range(T):
                if (iteration, t) == (2, 1):
                    for lie in lies:
                        agents.say(LIAR, lie)
                    agents.hears_nothing(LIAR)
                    agents.leave(LIAR)
                present = range(N if (iteration, t) < (2, 1) else N - 1)
                for agent in present:
                    agents.act(agent, iteration, t, index=1 + (iteration + t + agent) % 4)
                for agent in present:
                    hear(agent)
        for agent in range(N - 1):
            agents.say(agent, Bye(agent))
        agents.end()
        assert agents.failure is None
    return [entry for entry in seen if entry[0] != LIAR], run


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return seen_by_the_others(tmp_path_factory.mktemp("without"), [])[0]


def test_every_number_of_every_message_at_its_extremes(
    without: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    everything, run = seen_by_the_others(tmp_path, LIES)
    assert everything == without
    assert f"agent {LIAR}'s hello: it is incarnation {2**31}, after 1" in caplog.text
    count = json.loads((run.env.path / "incarnation.json").read_text())["incarnation"]
    assert count == 1, "the next start works, and every later one"


@pytest.mark.parametrize("lie", [Bye(LIAR), Hello(LIAR, 1, ITERATIONS + 1, 1), Hello(LIAR, 1, 2, 2**20)], ids=str)
def test_what_could_be_true(without: list[Any], tmp_path: Path, lie: Hello | Bye) -> None:
    assert seen_by_the_others(tmp_path, [lie])[0] == without


def test_an_action_that_is_not_of_its_space_is_refused_and_its_sender_named(
    without: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shape = (CONFIG.num_envs, 1)
    everything, _ = seen_by_the_others(
        tmp_path, [Action(LIAR, 1, 2, 1, np.full(shape, value, np.float32)) for value in VALUES]
    )
    assert everything == without
    assert f"agent {LIAR}'s action is -1, not of Discrete(5)" in caplog.text


def test_silence_has_a_deadline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunDirectory.create(tmp_path / "run", dataclasses.replace(FINISHES, agent_deadline=0.3), {})
    with scripted_agents(run, line_cluster(run, tmp_path)) as agents:
        for agent in range(N):
            agents.hello(agent)
        assert [agents.observe(agent) for agent in range(N)] == [(1, 0)] * N
        for iteration in range(1, ITERATIONS + 1):
            for t in range(T):
                assert agents.step((0, 1), iteration, t) == [(iteration, t + 1)] * 2
        for agent in range(2):
            agents.say(agent, Bye(agent))
        agents.end()
    assert f"agent {LIAR} has done nothing for 0.3 s at step (0, 2); actions of zeros instead" in caplog.text
    assert [line["agents_absent"] for line in run.env.read_metrics()] == [1] * ITERATIONS
