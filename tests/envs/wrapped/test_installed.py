"""Installed PettingZoo environments by their module and name."""

import importlib
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

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
        (
            "pettingzoo/builtins:dict",
            "makes an object of type dict without reset(), step(), observation_space()",
        ),
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


class Duck:
    """A parallel environment by its methods alone: no base class, metadata or close, and no `agents` before a reset."""

    possible_agents = ("a", "b")

    def __init__(self) -> None:
        self._time = 0

    def observation_space(self, _agent: str) -> spaces.Space:
        return spaces.Box(0.0, 9.0, (1,))

    def action_space(self, _agent: str) -> spaces.Space:
        return spaces.Discrete(2)

    def reset(self, seed: int | None = None) -> tuple[dict[str, Any], None]:  # noqa: ARG002
        self._time, self.agents = 0, ["a", "b"]
        return self._seen(), None

    def step(self, actions: dict[str, int]) -> tuple[Any, ...]:
        self._time += 1
        over = dict.fromkeys(actions, self._time == 3)
        outcome = self._seen(), {agent: float(actions[agent]) for agent in actions}, dict.fromkeys(actions, False), over
        if self._time == 3:
            self.agents.clear()
        return *outcome, {}

    def _seen(self) -> dict[str, np.ndarray]:
        return {agent: np.array([self._time], np.float32) for agent in self.agents}


class Nobody(Duck):
    """Its `agents` stays what it was before the first reset."""

    def reset(self, seed: int | None = None) -> tuple[dict[str, Any], None]:
        outcome = super().reset(seed)
        self.agents = None  # type: ignore[assignment]
        return outcome


class Unclosable(Duck):
    def close(self) -> None:
        raise RuntimeError("the window is gone")


def task_of(kind: type) -> str:
    return f"pettingzoo/{__name__}:{kind.__name__}"


@pytest.mark.parametrize("kind", [Duck, Unclosable])
def test_what_has_the_methods_is_a_parallel_environment(kind: type) -> None:
    env = make_env(task_of(kind), None, num_envs=2, seed=0)
    assert env.spec.agents == ("a", "b")
    env.reset()
    for time in range(1, 7):
        step = env.step(np.array([[0, 1], [1, 0]], np.float32))
        assert step.rewards.tolist() == [[0, 1], [1, 0]]
        assert step.ended.all() == (time % 3 == 0)
        assert step.observations[0].tolist() == [[time % 3]] * 2
    with pytest.raises(ConfigError, match="has no render mode 'rgb_array'"):
        env.render()
    env.close()


def test_an_environment_without_a_list_of_agents_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"environment 0.*: `agents` is None; expected a list"):
        task_spec(task_of(Nobody), None)
