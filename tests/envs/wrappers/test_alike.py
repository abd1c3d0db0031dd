"""Agents made alike: ids, padding, and everything else as it was."""

from __future__ import annotations

import numpy as np
import pytest

from matrpo.envs.registry import make_env
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.envs.wrappers.alike import AlikeAgents
from matrpo.errors import ConfigError
from matrpo.spaces import ActionSpace, Box, Discrete, MultiDiscrete, TaskSpec


class Echo(VectorEnv):
    """Agents with given action spaces: it keeps the joint action, and every third step ends an episode."""

    def __init__(self, *spaces: ActionSpace, masks: list[np.ndarray | None] | None = None) -> None:
        sizes = tuple(range(1, len(spaces) + 1))
        self.spec = TaskSpec("echo", tuple(f"a{q}" for q in range(len(spaces))), sizes, spaces)
        self.num_envs = 2
        self.masks = masks or [None] * len(spaces)
        self.time = 0

    def reset(self) -> list[np.ndarray]:
        return self.observe()

    def observe(self) -> list[np.ndarray]:
        return [np.full((2, size), self.time + 1, np.float32) for size in self.spec.observation_sizes]

    def action_masks(self) -> list[np.ndarray | None]:
        return self.masks

    def step(self, joint_action: np.ndarray) -> VectorStep:
        self._check_action(joint_action)
        self.done = joint_action
        self.time += 1
        over = np.full((2, self.spec.num_agents), self.time % 3 == 0)
        finals = self.observe() if over.any() else None
        return VectorStep(self.observe(), np.ones(over.shape), over, np.zeros_like(over), finals)


def test_observations_are_padded_and_end_with_the_id() -> None:
    env = AlikeAgents(Echo(Discrete(2), Discrete(2)))
    assert env.spec.observation_sizes == (4, 4)
    first, second = env.reset()
    assert first.tolist() == [[1, 0, 1, 0]] * 2
    assert second.tolist() == [[1, 1, 0, 1]] * 2
    assert env.action_masks() == [None, None]


def test_smaller_discrete_spaces_are_masked() -> None:
    allowed = np.array([[True, False], [True, True]])
    env = AlikeAgents(Echo(Discrete(2), Discrete(4), Discrete(3), masks=[allowed, None, None]))
    assert set(env.spec.action_spaces) == {Discrete(4)}
    first, second, third = env.action_masks()
    assert first is not None
    assert third is not None
    assert first.tolist() == [[True, False, False, False], [True, True, False, False]]
    assert second is None
    assert third.tolist() == [[True, True, True, False]] * 2


def test_factors_that_an_agent_lacks_have_one_choice() -> None:
    env = AlikeAgents(Echo(MultiDiscrete((2, 3)), Discrete(4)))
    assert set(env.spec.action_spaces) == {MultiDiscrete((4, 3))}
    first, second = env.action_masks()
    assert first is not None
    assert second is not None
    assert first[0].tolist() == [True, True, False, False, True, True, True]
    assert second[0].tolist() == [True, True, True, True, True, False, False]
    inner = env._env
    env.step(np.array([[1, 2, 3, 0], [0, 1, 2, 0]], np.float32))
    assert isinstance(inner, Echo)
    assert inner.done.tolist() == [[1, 2, 3], [0, 1, 2]]


def test_boxes_that_differ_are_in_half_ranges_and_padded() -> None:
    inner = Echo(Box(1, 0.0, 10.0), Box(2, -1.0, (1.0, 3.0)))
    env = AlikeAgents(inner)
    assert set(env.spec.action_spaces) == {Box(2, -1.0, 1.0)}
    env.step(np.array([[1.0, 9.0, 0.5, 0.0], [0.0, 9.0, -1.0, 1.0]], np.float32))
    assert inner.done.tolist() == [[10.0, 0.5, 1.0], [5.0, -1.0, 3.0]]


def test_boxes_of_one_kind_stay_in_the_tasks_unit() -> None:
    inner = Echo(Box(1, 0.0, 10.0), Box(1, 0.0, 10.0))
    env = AlikeAgents(inner)
    actions = np.array([[7.0, 3.0], [0.0, 10.0]], np.float32)
    env.step(actions)
    np.testing.assert_array_equal(inner.done, actions)


def test_discrete_and_continuous_agents_cannot_be_alike() -> None:
    with pytest.raises(ConfigError, match="agent_id: some agents of echo have discrete actions"):
        AlikeAgents(Echo(Discrete(2), Box(1, -1.0, 1.0)))


def test_the_state_stays_what_it_was() -> None:
    inner = Echo(Discrete(2), Discrete(2))
    env = AlikeAgents(inner)
    env.reset()
    for _ in range(3):
        step = env.step(env.spec.noop(2))
        np.testing.assert_array_equal(env.state(), inner.state())
    assert step.final_observations is not None
    assert step.final_state is not None
    assert step.final_observations[1].tolist() == [[4, 4, 0, 1]] * 2
    assert step.final_state.tolist() == [[4, 4, 4]] * 2


def test_rewards_and_ends_are_those_of_the_task() -> None:
    plain, alike = (make_env("mpe2/simple_speaker_listener_v4", None, 3, 5) for _ in range(2))
    wrapped = AlikeAgents(alike)
    plain.reset()
    wrapped.reset()
    random = np.random.default_rng(0)
    for _ in range(30):
        actions = random.integers(0, 3, (3, 2)).astype(np.float32)
        one, other = plain.step(actions), wrapped.step(actions)
        for name in ("rewards", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        for own, seen, size in zip(one.observations, other.observations, plain.spec.observation_sizes, strict=True):
            np.testing.assert_array_equal(own, seen[:, :size])
