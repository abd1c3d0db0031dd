"""A user's own task: the examples of docs/own-task.md as they stand there, and every way to break one."""

import re
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from matrpo.envs.conformance.guarded import GuardedEnv
from matrpo.envs.registry import canonical_name, make_env, resolve_num_agents, task_spec
from matrpo.envs.wrapped.pettingzoo import PettingZooEnv
from matrpo.errors import ConfigError
from matrpo.spaces import Discrete

GUIDE = Path(__file__).parents[3] / "docs" / "own-task.md"

MINIMAL = """
import numpy as np
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.spaces import Discrete, TaskSpec

class Env(VectorEnv):
    spec = TaskSpec("mine", ("a", "b"), (1, 1), (Discrete(2), Discrete(2)))

    def __init__(self, num_envs):
        self.num_envs = num_envs

    def reset(self):
        return self.observe()

    def observe(self):
        return [np.zeros((self.num_envs, 1), np.float32)] * 2

    def step(self, joint_action):
        no = np.zeros((self.num_envs, 2), bool)
        return VectorStep(self.observe(), np.zeros((self.num_envs, 2)), no, no, None)

def make(num_agents, num_envs, seed):
    return Env(num_envs)
"""


def write(folder: Path, text: str) -> str:
    file = folder / "task.py"
    file.write_text(text)
    return f"{file}:make"


def example(name: str, folder: Path) -> str:
    """A code block of the guide as a file; its task."""
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found
    return write(folder, found[1])


def test_the_guide_s_batch_trains_and_is_evaluated(tmp_path: Path) -> None:
    """By the file's relative path, in processes that have none of it in memory."""
    example("batch", tmp_path)
    matrpo = [sys.executable, "-m", "matrpo.launch.cli"]
    settings = ["--steps=80", "--num-envs=4", "--rollout-length=10", "--hidden-sizes=8", "--agents=4"]
    launch = [*matrpo, "launch", "--task", "task.py:make", "--run", "run", *settings]
    done = subprocess.run(launch, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"task: {tmp_path / 'task.py'}:make" in (tmp_path / "run" / "config.yaml").read_text()
    evaluation = [*matrpo, "eval", str(tmp_path / "run"), "--episodes", "5"]
    done = subprocess.run(evaluation, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "walker_3" in done.stdout


def test_the_guide_s_batch_is_what_the_guide_says(tmp_path: Path) -> None:
    task = example("batch", tmp_path)
    assert resolve_num_agents(task, None) == 3
    assert resolve_num_agents(task, 5) == 5
    env = make_env(task, 3, num_envs=6, seed=1)
    env.reset()
    places = env.observe()[0].astype(np.float64) * 8
    step = env.step(env.spec.noop(6) + 1)
    np.testing.assert_allclose(step.rewards[:, 0], -np.abs(places[:, 0] - places.mean(axis=1)), atol=1e-5)
    for _ in range(19):
        assert step.final_observations is None
        step = env.step(env.spec.noop(6) + 1)
    assert step.truncated.all()
    assert step.final_observations is not None


def test_the_guide_s_pettingzoo_environment_is_what_the_guide_says(tmp_path: Path) -> None:
    task = example("pettingzoo", tmp_path)
    assert task_spec(task, None).num_agents == 3
    spec = task_spec(task, 4)
    assert spec.action_spaces == (Discrete(5),) * 4
    assert spec.episode_length == 50
    env = make_env(task, 4, num_envs=2, seed=0)
    assert isinstance(env, GuardedEnv)
    assert isinstance(env.inner, PettingZooEnv)
    env.reset()
    assert env.render().shape == (700, 700, 3)


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a_neighbour_of_the_task.py").write_text(MINIMAL)
    task = write(tmp_path, "from a_neighbour_of_the_task import make")
    assert task_spec(task, None).agents == ("a", "b")


def test_the_name_holds_the_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = write(tmp_path, MINIMAL)
    monkeypatch.chdir(tmp_path)
    assert canonical_name("task.py:make") == canonical_name("./task.py:make") == canonical_name(task) == task


FACTORY = "def make(num_agents, num_envs, seed):\n    "
BROKEN = {
    "a syntax error": ("def make(:\n", ["SyntaxError", "task.py, line 1"]),
    "a failing import": ("x = 1\nimport no_such_module\n", ["ModuleNotFoundError", "no_such_module", "(line 2)"]),
    "an exit": ("import sys\nsys.exit('bye')\n", ["SystemExit", "bye"]),
    "no factory": ("def mak(): ...\n", ["no function 'make'"]),
    "no callable": ("make = 3\n", ["no function 'make'"]),
    "other arguments": ("def make(size): ...\n", ["TypeError", "unexpected keyword argument"]),
    "a raising factory": (FACTORY + "raise ValueError('no\\nway')\n", ["ValueError: no way", "(line 2)"]),
    "nothing returned": (FACTORY + "pass\n", ["returned None", "expected a VectorEnv"]),
    "a number returned": (FACTORY + "return 3\n", ["returned an object of type int", "expected a VectorEnv"]),
    "a constructor of nothing": (FACTORY + "return object\n", ["makes an object of type object", "ParallelEnv"]),
    "a raising constructor": (FACTORY + "return lambda: 1 / 0\n", ["ZeroDivisionError"]),
    "no spec": (MINIMAL.replace("    spec =", "    other ="), ["has no `spec`"]),
    "another batch": (MINIMAL.replace("Env(num_envs)", "Env(7)"), ["`num_envs` = 1"]),
    "float64 observations": (MINIMAL.replace("np.float32", "np.float64"), ["of a", "float64", "float32"]),
    "too few observations": (MINIMAL.replace("] * 2", "]"), ["a list of 2 arrays"]),
    "no VectorStep": (MINIMAL.replace("return VectorStep(", "return ("), ["of type tuple", "a VectorStep"]),
    "flags for one agent": (MINIMAL.replace("2), bool)", "1), bool)"), ["terminated", "(1, 1)", "(1, 2)"]),
    "no last observations": (MINIMAL.replace("no, no", "~no, no"), ["final_observations", "None", "episode ended"]),
    "a raising step": (
        MINIMAL.replace("no = np", "no = oh"),
        ["step() raised NameError: name 'oh' is not defined (task.py, line"],
    ),
}


@pytest.mark.parametrize(("text", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_clear_line(text: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        task_spec(write(tmp_path, text), None)
    assert "\n" not in str(caught.value)
    for word in (str(tmp_path / "task.py"), *words):
        assert word in str(caught.value)


def test_a_missing_file_and_a_missing_colon_are_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"there is no file {tmp_path}/nowhere.py"):
        task_spec(f"{tmp_path}/nowhere.py:make", None)
    with pytest.raises(ConfigError, match=r"name the factory too, as in nowhere\.py:make"):
        task_spec("nowhere.py", None)


def test_another_number_of_agents_than_asked_for_is_refused(tmp_path: Path) -> None:
    task = write(tmp_path, MINIMAL)
    with pytest.raises(ConfigError, match=r"bad value 5 for 'agents'.*exactly 2"):
        resolve_num_agents(task, 5)


class Tuples(gymnasium.Env):  # type: ignore[type-arg]
    """Two agents in tuples; an episode is over in step 4 or, if both do 1, at once: a termination, either way."""

    observation_space = spaces.Tuple((spaces.Box(0.0, 9.0, (1,)), spaces.Box(0.0, 9.0, (2,))))
    action_space = spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3)))

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:  # noqa: ARG002
        self._time = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self._time += 1
        return self._seen(), list(action), self._time == 4 or list(action) == [1, 1], False, {}

    def _seen(self) -> Any:
        return tuple(np.full(space.shape, self._time, np.float32) for space in self.observation_space)


def test_the_guide_s_tuples_end_by_truncation_at_their_time_limit_alone(tmp_path: Path) -> None:
    gymnasium.register("Tuples-v0", entry_point=Tuples)
    try:
        kind = runpy.run_path(example("joint", tmp_path).removesuffix(":make"))["Joint"]
        env = PettingZooEnv("tuples", partial(kind, "Tuples-v0", 4), 1, seed=0)
        assert env.spec.action_spaces == (Discrete(2), Discrete(3))
        env.reset()
        steps = [([0, 2], 1, 0, 0), ([1, 1], 2, 1, 0), *(([0, 2], t, 0, int(t == 4)) for t in (1, 2, 3, 4))]
        for actions, time, over, cut in steps:
            step = env.step(np.array([actions], np.float32))
            assert step.rewards.tolist() == [actions]
            assert step.terminated.tolist() == [[over] * 2]
            assert step.truncated.tolist() == [[cut] * 2]
            last = step.final_observations if over or cut else step.observations
            assert last is not None
            assert [part.tolist() for part in last] == [[[time]], [[time, time]]]
        env.close()
    finally:
        del gymnasium.registry["Tuples-v0"]
