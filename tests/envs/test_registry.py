import subprocess
import sys

import numpy as np
import pytest

from matrpo.config import ConfigError
from matrpo.envs.registry import TASKS, make_env, resolve_num_agents, task_spec


@pytest.mark.parametrize("info", TASKS, ids=lambda info: info.name)
def test_every_task_can_be_made_and_stepped(info: object) -> None:
    name, default = info.name, info.default_agents  # type: ignore[attr-defined]
    env = make_env(name, None, num_envs=2, seed=0)
    assert env.spec == task_spec(name, None)
    assert env.spec.name == name
    assert env.spec.num_agents == resolve_num_agents(name, None) == default
    for q, observation in enumerate(env.reset()):
        assert observation.shape == (2, env.spec.observation_sizes[q])
    step = env.step(env.spec.noop(2))
    assert step.rewards.shape == (2, default)
    assert env.render().shape[2] == 3


@pytest.mark.parametrize("task", ["navigation", "mpe2/simple_spread_v3"])
def test_tasks_for_any_number_of_agents(task: str) -> None:
    for agents in (1, 5):
        assert resolve_num_agents(task, agents) == agents
        assert task_spec(task, agents).num_agents == agents
    with pytest.raises(ConfigError, match="at least 1"):
        resolve_num_agents(task, 0)


def test_a_fixed_number_of_agents_is_kept() -> None:
    assert resolve_num_agents("mpe2/simple_speaker_listener_v4", 2) == 2
    with pytest.raises(ConfigError, match="exactly 2"):
        make_env("mpe2/simple_speaker_listener_v4", 3, num_envs=1, seed=0)


@pytest.mark.parametrize(
    ("task", "hint"),
    [
        ("navigaton", "did you mean 'navigation'"),
        ("simple_spread_v3", "did you mean 'mpe2/simple_spread_v3'"),
        ("mpe2/simple_spred_v3", "did you mean 'mpe2/simple_spread_v3'"),
        ("zzz", "matrpo list tasks"),
    ],
)
def test_an_unknown_task_is_an_error_with_a_hint(task: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint) as caught:
        resolve_num_agents(task, None)
    assert "\n" not in str(caught.value)


def test_sizes_of_navigation() -> None:
    spec = task_spec("navigation", None)
    assert spec.observation_sizes == (50,) * 12
    assert spec.joint_action_width == 12
    assert spec.episode_length == 100


def test_a_task_prints_nothing_and_the_native_one_loads_no_wrapper() -> None:
    program = (
        "import sys; from matrpo.envs.registry import make_env; make_env('navigation', 2, 1, 0).reset();"
        "assert not {'pettingzoo', 'mpe2', 'pygame', 'gymnasium', 'torch'} & set(sys.modules);"
        "make_env('mpe2/simple_spread_v3', 2, 1, 0).reset()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_two_environments_of_one_task_do_not_disturb_each_other() -> None:
    first = make_env("mpe2/simple_speaker_listener_v4", None, num_envs=1, seed=0)
    first.reset()
    first.render()
    task_spec("mpe2/simple_speaker_listener_v4", None)
    assert np.ptp(first.render()) > 0
