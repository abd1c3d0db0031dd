"""Our tasks as PettingZoo environments: its own test, and the same numbers as the batch's."""

import warnings

import numpy as np
import pytest
from gymnasium import spaces
from pettingzoo.test import parallel_api_test

from matrpo.envs.conformance.guarded import check_env
from matrpo.envs.family import KnownTask
from matrpo.envs.registry import families, make_env
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.envs.wrapped.parallel_view import ParallelView, parallel_env
from matrpo.envs.wrapped.pettingzoo import PettingZooEnv
from matrpo.errors import ConfigError
from matrpo.spaces import Box, Discrete, MultiDiscrete, TaskSpec

OURS = [
    task
    for key, family in families().items()
    if key in ("navigation", "treasure", "game", "mpe2")
    for task in family.tasks
    if not isinstance(task.make(None, 1, 0), PettingZooEnv)
]
"""Every task of ours that is not itself a PettingZoo environment."""


@pytest.mark.parametrize("task", OURS, ids=lambda task: task.name)
def test_pettingzoo_s_own_test_passes(task: KnownTask) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(parallel_env(task.name), num_cycles=250)


def test_the_view_shows_what_the_batch_does() -> None:
    batch, view = make_env("navigation", 3, 1, seed=7), parallel_env("navigation", 3)
    expected = batch.reset()
    seen, _ = view.reset(seed=7)
    rng = np.random.default_rng(0)
    for _ in range(100):
        for q, agent in enumerate(view.possible_agents):
            np.testing.assert_array_equal(seen[agent], expected[q][0])
        action = rng.integers(0, 5, 3)
        step = batch.step(action[None].astype(np.float32))
        seen, rewards, terminations, truncations, _ = view.step(dict(zip(view.agents, action, strict=True)))
        assert list(rewards.values()) == step.rewards[0].tolist()
        assert list(terminations.values()) == step.terminated[0].tolist()
        assert list(truncations.values()) == step.truncated[0].tolist()
        expected = step.observations if step.final_observations is None else step.final_observations
    assert view.agents == []
    np.testing.assert_array_equal(seen["agent_2"], expected[2][0])
    assert not np.array_equal(view.reset()[0]["agent_0"], seen["agent_0"])
    np.testing.assert_array_equal(view.reset(seed=7)[0]["agent_0"], make_env("navigation", 3, 1, seed=7).reset()[0][0])


class Leaver(VectorEnv):
    """`early` may only choose 1 and terminates at the second of three steps."""

    spec = TaskSpec("leaver", ("early", "late"), (1, 1), (Discrete(2), Discrete(3)))
    num_envs = 1

    def __init__(self) -> None:
        self.time = 0

    def reset(self) -> list[np.ndarray]:
        self.time = 0
        return self.observe()

    def observe(self) -> list[np.ndarray]:
        return [np.full((1, 1), self.time, np.float32) for _ in range(2)]

    def step(self, joint_action: np.ndarray) -> VectorStep:  # noqa: ARG002
        self.time += 1
        last, terminated = self.observe(), np.array([[self.time >= 2, self.time == 3]])
        ended = self.time == 3
        observations = self.reset() if ended else last
        rewards, truncated = np.ones((1, 2)), np.zeros((1, 2), dtype=bool)
        return VectorStep(observations, rewards, terminated, truncated, last if ended else None)

    def action_masks(self) -> list[np.ndarray | None]:
        return [np.array([[False, True]]), None]


def test_an_agent_that_terminates_before_the_others_leaves_at_once() -> None:
    view = ParallelView(lambda _seed: Leaver())
    view.reset()
    assert view.step({"early": 1, "late": 0})[2] == {"early": False, "late": False}
    assert view.step({"early": 1, "late": 0})[2] == {"early": True, "late": False}
    assert view.agents == ["late"]
    observations, *_ = view.step({"late": 2})
    assert observations == {"late": np.array([3.0])}
    assert view.agents == []


def test_masks_are_part_of_the_observation_of_agents_that_have_them() -> None:
    view = ParallelView(lambda _seed: Leaver())
    parallel_api_test(view, num_cycles=10)
    observations, _ = view.reset()
    assert observations["early"]["action_mask"].tolist() == [0, 1]
    assert view.observation_space("early").contains(observations["early"])
    assert view.observation_space("late").contains(observations["late"])


class Several(Leaver):
    """`early` chooses two numbers, the first may not be 0 and the second must be 2; `late` has bounds of its own."""

    spec = TaskSpec("several", ("early", "late"), (1, 1), (MultiDiscrete((3, 4)), Box(2, (0.0, 100.0), (1.0, 200.0))))

    def __init__(self) -> None:
        super().__init__()
        self.received: list[list[float]] = []

    def step(self, joint_action: np.ndarray) -> VectorStep:
        self._check_action(joint_action)
        self.received += joint_action.tolist()
        assert joint_action[0, 0] > 0
        assert joint_action[0, 1] == 2
        return super().step(joint_action)

    def action_masks(self) -> list[np.ndarray | None]:
        return [np.array([[False, True, True, False, False, True, False]]), None]


def test_factors_and_bounds_are_shown_as_they_are() -> None:
    env = Several()
    view = ParallelView(lambda _seed: env)
    assert view.action_space("early") == spaces.MultiDiscrete([3, 4])
    assert view.action_space("late") == spaces.Box(np.float32([0, 100]), np.float32([1, 200]))
    observations, _ = view.reset()
    assert view.observation_space("early").contains(observations["early"])
    assert observations["early"]["action_mask"].tolist() == [0, 1, 1, 0, 0, 1, 0]
    view.step({"early": np.array([2, 2]), "late": np.array([0.25, 160.0], np.float32)})
    assert env.received[-1] == [2, 2, 0.25, 160.0]


def test_a_task_is_tried_out_with_allowed_choices_and_the_middle_of_its_bounds() -> None:
    env = Several()
    check_env(env, "several")
    assert env.received == [[1, 2, 0.5, 150.0]] * 2
    for wrong in ([3, 2, 0, 0], [1, 4, 0, 0], [1, -1, 0, 0], [1, np.nan, 0, 0]):
        with pytest.raises(ValueError, match="outside"):
            env._check_action(np.array([wrong], np.float32))


def test_a_view_draws_what_its_task_can_draw() -> None:
    view = parallel_env("navigation", 2, render_mode="rgb_array")
    view.reset()
    picture = view.render()
    assert picture is not None
    assert picture.shape == (350, 350, 3)
    assert parallel_env("navigation", 2).render() is None
    with pytest.raises(ConfigError, match="cannot be drawn"):
        parallel_env("game/differentiable", render_mode="rgb_array").render()
