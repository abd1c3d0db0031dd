import subprocess
import sys

import numpy as np
import pytest

from matrpo.envs.conformance.guarded import check_env
from matrpo.envs.family import KnownTask, packages
from matrpo.envs.mujoco.robots import PARTITIONS
from matrpo.envs.registry import canonical_name, families, make_env, resolve_num_agents, task_spec
from matrpo.envs.starcraft import smac, smacv2, smax
from matrpo.errors import ConfigError

QUICK = ("navigation", "treasure", "game", "mpe2")
TASKS = [task for key, family in families().items() if key in QUICK for task in family.tasks]
"""The tables of the others, which take long to build, are compared with the originals in their families' tests."""


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_task_is_as_its_entry_says(task: KnownTask) -> None:
    env = make_env(task.name, None, num_envs=2, seed=0)
    assert env.spec == task_spec(task.name, None)
    assert env.spec.name == task.name == canonical_name(task.name)
    assert env.spec.num_agents == resolve_num_agents(task.name, None) == task.default_agents
    check_env(env, task.name)
    if task.name.startswith("game/"):
        with pytest.raises(ConfigError, match=f"'{task.name}' cannot be drawn"):
            env.render()
    else:
        assert env.render().shape[2] == 3
    env.close()


@pytest.mark.parametrize("task", [task for task in TASKS if not task.fixed], ids=lambda task: task.name)
@pytest.mark.parametrize("num_agents", [2, 6])
def test_a_task_for_other_numbers_of_agents_is_as_its_entry_says(task: KnownTask, num_agents: int) -> None:
    env = make_env(task.name, num_agents, num_envs=1, seed=0)
    assert env.spec == task_spec(task.name, num_agents)
    assert env.spec.num_agents == num_agents
    env.close()


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
        ("game/diferentiable", "did you mean 'game/differentiable'"),
        ("mpe2", "matrpo list tasks"),
        ("zzz", "matrpo list tasks"),
    ],
)
def test_an_unknown_task_is_an_error_with_a_hint(task: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint) as caught:
        resolve_num_agents(task, None)
    assert "\n" not in str(caught.value)


def test_an_mpe2_task_may_be_named_without_its_version() -> None:
    assert canonical_name("mpe2/simple_spread") == "mpe2/simple_spread_v3"
    assert canonical_name("mpe2/simple_tag-continuous") == "mpe2/simple_tag_v3-continuous"


@pytest.mark.parametrize("task", ["mpe2/simple_adversary_v3", "mpe2/simple_tag_v3"])
def test_adversaries_need_somebody_to_play_against(task: str) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        task_spec(task, 1)


def test_a_family_without_its_packages_says_what_to_install() -> None:
    assert packages("matrpo[x]", "numpy", "email").problem() is None
    problem = packages("matrpo[x]", "numpy", "no_such_module", "nor_this").problem()
    assert problem == "not installed: no_such_module, nor_this; pip install 'matrpo[x]'"


def test_a_task_whose_packages_are_missing_is_refused_and_still_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ConfigError, match="not installed: mujoco"):
        make_env("mamujoco/Ant-4x2", None, 1, 0)
    assert task_spec("mamujoco/Ant-4x2", None).num_agents == 4


@pytest.mark.parametrize("task", ["mamujoco/Hopper-3x1", "smax/3s_vs_5z", "vmas/buzz_wire"])
def test_a_task_of_an_extra_is_as_its_entry_says(task: str) -> None:
    env = make_env(task, None, num_envs=2, seed=4)
    assert env.spec == task_spec(task, None)
    assert env.spec.name == task == canonical_name(task)
    check_env(env, task)
    with pytest.raises(ConfigError, match=f"exactly {env.spec.num_agents}"):
        make_env(task, 5, num_envs=1, seed=0)
    env.close()


def test_every_robot_and_battle_that_is_known_is_listed() -> None:
    listed = {task.name for family in families().values() for task in family.tasks}
    known = {"mamujoco": PARTITIONS, "smax": smax.MAPS, "smac": [*smac.MAPS, *smacv2.BATTLES]}
    assert {f"{family}/{name}" for family, names in known.items() for name in names} <= listed


def test_listing_and_describing_tasks_imports_nothing_that_they_need() -> None:
    program = (
        "import sys; from matrpo.envs.registry import families, make_env, task_spec;"
        "loaded = {name for name in sys.modules if name.startswith('matrpo.envs.')};"
        "light = ('registry', 'family', 'masks', 'vector_env', 'conformance', 'workers');"
        "assert {name.split('.')[2] for name in loaded} <= set(light), loaded;"
        "[task.spec(None) for family in families().values() for task in family.tasks];"
        "[family.needs.problem() for family in families().values()];"
        "heavy = {'torch', 'numba', 'gymnasium', 'pettingzoo', 'mpe2', 'pygame', 'jax', 'jaxmarl', 'mujoco', 'smac'};"
        "heavy |= {'vmas', 'gym'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_sizes_of_navigation() -> None:
    spec = task_spec("navigation", None)
    assert spec.observation_sizes == (50,) * 12
    assert spec.joint_action_width == 12
    assert spec.episode_length == 100


def test_a_task_prints_nothing_and_the_native_ones_load_no_wrapper() -> None:
    program = (
        "import sys; from matrpo.envs.registry import make_env;"
        "[make_env(task, 2, 1, 0).reset() for task in ('navigation', 'treasure', 'mpe2/simple_spread_v3')];"
        "assert not {'pettingzoo', 'mpe2', 'pygame', 'gymnasium', 'torch'} & set(sys.modules);"
        "make_env('mpe2/simple_adversary_v3', 2, 1, 0).reset()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_two_environments_of_one_task_do_not_disturb_each_other() -> None:
    first = make_env("mpe2/simple_push_v3", None, num_envs=1, seed=0)
    first.reset()
    first.render()
    second = make_env("mpe2/simple_push_v3", None, num_envs=1, seed=0)
    second.reset()
    second.render()
    assert np.ptp(first.render()) > 0
