"""Installed PettingZoo environments by their module and name."""

import importlib

import numpy as np
import pytest

from matrpo.envs.registry import canonical_name, make_env, resolve_num_agents, task_spec
from matrpo.errors import ConfigError
from matrpo.spaces import Discrete

PURSUIT = "pettingzoo/pettingzoo.sisl.pursuit_v5:parallel_env"
WORLD = "pettingzoo/mpe2.simple_world_comm_v3:parallel_env"


def test_any_installed_environment_is_a_task() -> None:
    spec = task_spec(PURSUIT, None)
    assert spec.name == canonical_name(PURSUIT) == PURSUIT
    assert spec.num_agents == resolve_num_agents(PURSUIT, 8) == 8
    assert spec.observation_sizes == (7 * 7 * 3,) * 8
    assert spec.action_spaces == (Discrete(5),) * 8
    assert [space.n for space in task_spec(WORLD, None).action_spaces] == [20, 5, 5, 5, 5, 5]  # type: ignore[union-attr]


def test_it_steps_as_the_original_does() -> None:
    env = make_env(PURSUIT, None, num_envs=2, seed=3)
    originals = [importlib.import_module("pettingzoo.sisl.pursuit_v5").parallel_env() for _ in range(2)]
    observations = env.reset()
    expected = [original.reset(seed=env.inner._episode_seed(b))[0] for b, original in enumerate(originals)]  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    for _ in range(10):
        for b in range(2):
            for q, agent in enumerate(env.spec.agents):
                np.testing.assert_array_equal(observations[q][b], expected[b][agent].reshape(-1))
        action = rng.integers(0, 5, (2, 8))
        step = env.step(action.astype(np.float32))
        observations = step.observations
        for b, original in enumerate(originals):
            expected[b], rewards, *_ = original.step(dict(zip(env.spec.agents, action[b], strict=True)))
            assert step.rewards[b].tolist() == list(rewards.values())


def test_its_number_of_agents_is_its_own() -> None:
    with pytest.raises(ConfigError, match=r"bad value 3 for 'agents'.*exactly 8"):
        resolve_num_agents(PURSUIT, 3)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("pettingzoo/no_such_module:env", "importing no_such_module raised ModuleNotFoundError"),
        ("pettingzoo/pettingzoo.mpe.simple_v3:env", "importing pettingzoo.mpe.simple_v3 raised ImportError"),
        ("pettingzoo/pettingzoo.sisl.pursuit_v4:env", "did you mean pettingzoo/pettingzoo.sisl.pursuit_v5:env?"),
        ("pettingzoo/mpe2.simple_v3:nothing", "module mpe2.simple_v3 has no constructor 'nothing'"),
        ("pettingzoo/mpe2.simple_v3:__name__", "has no constructor '__name__'"),
        ("pettingzoo/mpe2.simple_v3:env", "act in turn (AEC) are not supported"),
        ("pettingzoo/pettingzoo.classic.tictactoe_v3:env", "act in turn (AEC) are not supported"),
        ("pettingzoo/builtins:dict", "makes an object of type dict"),
        ("pettingzoo/builtins:zip_longest", "no constructor"),
        ("pettingzoo/math:sqrt", "its constructor raised TypeError"),
        ("pettingzoo/mpe2.simple_v3", "expected pettingzoo/<module>:<name>"),
        ("pettingzoo/:env", "expected pettingzoo/<module>:<name>"),
        ("pettingzoo/pettingzoo.test.example_envs.generated_agents_parallel_v0:parallel_env", "no possible_agents"),
    ],
)
def test_what_cannot_be_used_is_one_line(task: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        task_spec(task, None)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
