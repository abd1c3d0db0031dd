"""PettingZoo environments that do not keep to their interface: one line each, before a run or in the middle of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from scripted_task import ScriptedTask, Stay

from matrpo.envs.conformance.guarded import GuardedEnv, check_env
from matrpo.envs.wrapped.pettingzoo import PettingZooEnv
from matrpo.errors import ConfigError, TaskError
from matrpo.runs.run_directory import RunDirectory

STAYS = [[Stay(0, 3, True)], [Stay(0, 3, True)]]


class Task(ScriptedTask):
    """`change` says what becomes of an outcome, (observations, rewards, terminations, truncations, infos)."""

    change: Any = staticmethod(lambda outcome: outcome)

    def __init__(self) -> None:
        super().__init__(STAYS)

    def step(self, actions: dict[int, int]) -> Any:
        return self.change(super().step(actions))


def broken(change: Any) -> type[Task]:
    return type("Broken", (Task,), {"change": staticmethod(change)})


def checked(kind: type[Task]) -> str:
    with pytest.raises(ConfigError) as caught:
        check_env(PettingZooEnv("their/task", kind, 1, seed=0), "their/task")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def replaced(outcome: tuple[dict[int, Any], ...], part: int, value: Any) -> tuple[Any, ...]:
    return (*outcome[:part], value, *outcome[part + 1 :])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda outcome: outcome[:4], "what step() returns is a tuple of 4; expected 5 dictionaries"),
        (lambda outcome: list(outcome), "what step() returns is an object of type list"),
        (lambda outcome: replaced(outcome, 1, [1.0, 1.0]), "is an object of type list; expected a dictionary by agent"),
        (lambda outcome: replaced(outcome, 1, {0: 1.0}), "the reward of agent 1 is missing; expected one for each"),
        (lambda outcome: replaced(outcome, 0, {0: [1.0]}), "the observation of agent 1 is missing"),
        (lambda outcome: replaced(outcome, 2, {0: False}), "the termination of agent 1 is missing"),
        (lambda outcome: replaced(outcome, 3, {0: None, 1: False}), "the truncation of agent 0 is None"),
        (
            lambda outcome: replaced(outcome, 1, {0: 1.0, 1: np.nan}),
            "the reward of agent '1' is nan; expected a finite",
        ),
        (lambda outcome: replaced(outcome, 0, {0: [1e300], 1: [1.0]}), "the observation of agent '0' is inf"),
        (lambda _: 1 / 0, "step() raised ZeroDivisionError: division by zero (test_broken_environments.py, line"),
        (lambda _: sys.exit("over"), "step() raised SystemExit: over"),
    ],
)
def test_an_outcome_that_is_no_use_is_one_line(change: Any, words: str) -> None:
    text = checked(broken(change))
    assert text.startswith("task 'their/task', environment 0, step 1 of its episode: ")
    assert words in text


class NoSeed(Task):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class Alone(Task):
    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed, options)[0]


class Nobody(Task):
    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        outcome = super().reset(seed, options)
        self.agents = []
        return outcome


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (NoSeed, "reset(seed) raised TypeError: NoSeed.reset() got an unexpected keyword argument 'seed'"),
        (Alone, "what reset(seed) returns is an object of type dict; expected 2 dictionaries"),
        (Nobody, "`agents` after reset() is empty"),
    ],
)
def test_so_is_a_reset(kind: type[Task], words: str) -> None:
    text = checked(kind)
    assert text.startswith("task 'their/task', environment 0, step 0 of its episode: ")
    assert words in text


@pytest.mark.parametrize("infos", [None, {}, {0: None}])
def test_infos_may_be_missing(infos: Any) -> None:
    check_env(PettingZooEnv("their/task", broken(lambda outcome: replaced(outcome, 4, infos)), 1, seed=0), "their/task")


@pytest.mark.parametrize("space", ["observation_space", "action_space"])
def test_a_space_that_cannot_be_had_is_one_line(space: str) -> None:
    def refuse(_self: Task, _agent: int) -> Any:
        raise AttributeError("spaces")

    refuse.__name__ = space
    kind = type("Spaceless", (Task,), {space: refuse})
    with pytest.raises(
        ConfigError, match=rf"^task 'their/task': {space}\(0\) raised AttributeError: spaces \(test_bro"
    ):
        PettingZooEnv("their/task", kind, 1, seed=0)


def test_an_action_space_that_float32_cannot_number_is_one_line() -> None:
    kind = type("Vast", (Task,), {"action_space": lambda _self, _agent: spaces.Discrete(2**24 + 1)})
    with pytest.raises(ConfigError) as caught:
        PettingZooEnv("their/task", kind, 1, seed=0)
    assert str(caught.value) == (
        "task 'their/task': the action space of agent 0 is Discrete(16777217); "
        "a Discrete has 16777217 actions: expected 1 to 16777216"
    )


def test_two_agents_of_one_name_are_refused() -> None:
    class Twins(Task):
        def __init__(self) -> None:
            super().__init__()
            self.possible_agents = [1, "1"]

    with pytest.raises(ConfigError, match=r"^task 'their/task': its possible_agents are \(1, '1'\): expected"):
        PettingZooEnv("their/task", Twins, 1, seed=0)


def test_a_copy_that_cannot_be_closed_keeps_no_other_open() -> None:
    closed: list[Task] = []

    class Stuck(Task):
        def close(self) -> None:
            closed.append(self)
            raise RuntimeError("the window is gone")

    PettingZooEnv("their/task", Stuck, 3, seed=0).close()
    assert len(set(map(id, closed))) == 3


def test_the_environment_is_named_by_its_number_in_the_whole_batch() -> None:
    made: list[Task] = []

    def make() -> Task:
        kind = broken(lambda outcome: replaced(outcome, 1, {0: 1.0, 1: np.inf})) if len(made) == 1 else Task
        made.append(kind())
        return made[-1]

    env = GuardedEnv(PettingZooEnv("their/task", make, 2, seed=0), "their/task")
    env.number_from(4)
    env.reset()
    with pytest.raises(TaskError, match="environment 5, step 1 of its episode: the reward of agent '1' is inf"):
        env.step(env.spec.noop(2))


def test_a_box_beside_masks_is_refused() -> None:
    class Steered(Task):
        def action_space(self, _agent: int) -> Any:
            return spaces.Box(-1.0, 1.0, (1,), np.float32)

    assert "the action mask of agent 0 is an array of shape (3,); expected none for actions of Box" in checked(Steered)


FILE = """
from pathlib import Path
from gymnasium.spaces import Box, Discrete
import numpy as np
from pettingzoo import ParallelEnv

class Env(ParallelEnv):
    metadata = {"render_modes": ["rgb_array"]}
    steps = 0

    def __init__(self, render_mode=None):
        self.possible_agents, self.agents = ["a", "b", "c"], []

    def observation_space(self, agent): return Box(-9, 9, (1,), np.float32)

    def action_space(self, agent): return Discrete(2)

    def told(self, value): return {a: value for a in self.possible_agents}

    def reset(self, seed=None, options=None):
        self.agents, self.time = list(self.possible_agents), 0
        return self.told(np.zeros(1, np.float32)), {}

    def step(self, actions):
        Env.steps += 1
        self.time += 1
        if Env.steps > int(Path(__file__).with_name("last").read_text()):
            WHAT
        else:
            reward = 1.0
        over = self.time == 5
        self.agents = [] if over else self.agents
        return self.told(np.zeros(1, np.float32)), self.told(reward), self.told(False), self.told(over), {}

    def render(self): return np.zeros((4, 4, 3), np.uint8)

def make(num_agents, num_envs, seed): return Env
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["reward = float('nan')", "raise RuntimeError('connection lost')"])
@pytest.mark.parametrize("mode", [["--topology=line"], ["--topology=line", "--in-process"], ["--algo=qmix"]])
def test_a_run_ends_in_one_line_and_its_checkpoints_are_whole(what: str, mode: list[str], tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(FILE.replace("WHAT", what))
    last = tmp_path / "last"
    last.write_text("90")
    matrpo = [sys.executable, "-m", "matrpo.launch.cli"]
    settings = ["--steps=200", "--num-envs=2", "--rollout-length=10", "--hidden-sizes=8", "--checkpoint-every=2"]
    launch = [*matrpo, "launch", "--task=task.py:make", "--run=run", *settings, *mode]

    def fails(*command: str) -> None:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        [line] = [line for line in done.stderr.splitlines() if "error" in line]
        assert f"task '{tmp_path / 'task.py'}:make', environment" in line
        assert "step() raised RuntimeError: connection lost" in line or "the reward of agent 'a' is nan" in line

    fails(*launch)
    run = RunDirectory.open(tmp_path / "run")
    assert run.latest_common_iteration() == 4
    for process in run.processes().values():
        for arrays, _ in map(process.load_checkpoint, process.checkpoint_iterations()):
            assert all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f")
    last.write_text("7")
    fails(*matrpo, "eval", "run", "--episodes=5")
    last.write_text("3")
    fails(*matrpo, "eval", "run", "--render=film.gif")
    last.write_text("1000")
    resumed = subprocess.run(
        [*matrpo, "launch", "--run=run", "--resume"], cwd=tmp_path, capture_output=True, timeout=120
    )
    assert resumed.returncode == 0, resumed.stderr
