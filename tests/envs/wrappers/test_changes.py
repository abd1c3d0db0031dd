"""Changes of observations, observed: what they are, at the ends of episodes, and from a saved state on."""

from __future__ import annotations

import numpy as np
import pytest

from matrpo.envs.build import build_envs, run_spec
from matrpo.envs.registry import make_env
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.envs.wrappers.changes import ObservedChanges
from matrpo.settings.config import resolve
from matrpo.spaces import Discrete, TaskSpec

WEIGHT = 10.0


class Staggered(VectorEnv):
    """Two environments, whose episodes last two and three steps; agents observe squares of the time, and one more."""

    def __init__(self) -> None:
        self.spec = TaskSpec("staggered", ("a", "b"), (1, 2), (Discrete(2), Discrete(2)))
        self.num_envs = 2
        self.time = np.zeros(2)

    def reset(self) -> list[np.ndarray]:
        self.time[:] = 0
        return self.observe()

    def observe(self) -> list[np.ndarray]:
        square = self.time[:, None].astype(np.float32) ** 2
        return [square, np.concatenate([square, -square], axis=1)]

    def step(self, joint_action: np.ndarray) -> VectorStep:  # noqa: ARG002
        self.time += 1
        ended = self.time == [2, 3]
        finals = self.observe() if ended.any() else None
        self.time[ended] = 0
        over = np.stack([ended, ended], axis=1)
        return VectorStep(self.observe(), np.ones((2, 2)), np.zeros_like(over), over, finals)


def test_default_actions_are_those_of_the_environment_within(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Staggered, "default_actions", lambda env: env.spec.noop(2) + 1)
    assert ObservedChanges(Staggered(), WEIGHT).default_actions().tolist() == [[1, 1], [1, 1]]


def test_a_change_is_the_weighted_difference_and_zero_where_an_episode_begins() -> None:
    env = ObservedChanges(Staggered(), WEIGHT)
    assert env.spec.observation_sizes == (2, 4)
    assert [seen.tolist() for seen in env.reset()] == [[[0, 0]] * 2, [[0, 0, 0, 0]] * 2]
    first = env.step(env.spec.noop(2))
    assert first.observations[0].tolist() == [[1, 10], [1, 10]]
    assert first.observations[1].tolist() == [[1, -1, 10, -10]] * 2
    assert (first.final_observations, first.final_state) == (None, None)
    second = env.step(env.spec.noop(2))
    assert second.final_observations is not None
    assert second.final_state is not None
    assert second.observations[0].tolist() == [[0, 0], [4, 30]]
    assert second.final_observations[0].tolist() == [[4, 30], [4, 30]]
    assert second.final_state.tolist() == [[4, 4, -4]] * 2
    third = env.step(env.spec.noop(2))
    assert third.final_observations is not None
    assert third.observations[0].tolist() == [[1, 10], [0, 0]]
    assert third.final_observations[0].tolist() == [[1, 10], [9, 50]]
    for again, seen in zip(env.observe(), third.observations, strict=True):
        np.testing.assert_array_equal(again, seen)


class Visitor(Staggered):
    """The second agent is there at odd times alone, and observes zeros at others."""

    def present(self) -> np.ndarray:
        return np.stack([np.ones(2, dtype=bool), self.time % 2 == 1], axis=1)

    def observe(self) -> list[np.ndarray]:
        first, second = super().observe()
        return [first, np.where(self.present()[:, 1:], second + 7, 0).astype(np.float32)]


def test_nothing_changes_for_an_agent_that_comes_or_has_gone() -> None:
    env = ObservedChanges(Visitor(), WEIGHT)
    env.reset()
    came, gone = (env.step(env.spec.noop(2)).observations for _ in range(2))
    assert came[1].tolist() == [[8, 6, 0, 0]] * 2
    assert gone[1][1].tolist() == [0, 0, 0, 0]
    assert gone[0][1].tolist() == [4, 30]


def test_in_navigation_changes_are_the_velocities_that_made_them() -> None:
    """A step lasts 0.1: ten times the change of a relative position is the relative velocity before it."""
    env = ObservedChanges(make_env("navigation", 3, 4, 0), WEIGHT)
    random, seen = np.random.default_rng(0), env.reset()
    for _ in range(5):
        velocities = [observation[:, :2] for observation in seen]
        seen = env.step(random.integers(0, 5, (4, 3)).astype(np.float32)).observations
    relative = slice(14 + 10, 14 + 12)  # of agent 1, among the changes that agent 0 observes
    np.testing.assert_allclose(seen[0][:, relative], velocities[1] - velocities[0], atol=1e-5)


def test_from_a_saved_state_on_agents_observe_the_same() -> None:
    def build() -> VectorEnv:
        config = resolve(("test", {"task": "navigation", "agents": 2, "observe_changes": WEIGHT}))
        return build_envs(config, 3, seed=1)

    env, random = build(), np.random.default_rng(1)
    actions = random.integers(0, 5, (8, 3, 2)).astype(np.float32)
    env.reset()
    for action in actions[:5]:
        env.step(action)
    state = env.state_dict()
    assert state is not None
    later = build()
    later.load_state_dict(state)
    for again, seen in zip(later.observe(), env.observe(), strict=True):
        np.testing.assert_array_equal(again, seen)
    for action in actions[5:]:
        for again, seen in zip(later.step(action).observations, env.step(action).observations, strict=True):
            np.testing.assert_array_equal(again, seen)


def test_a_state_without_changes_is_refused() -> None:
    plain = make_env("navigation", 2, 3, 0)
    plain.reset()
    state = plain.state_dict()
    assert state is not None
    with pytest.raises(ValueError, match="without the changes"):
        ObservedChanges(make_env("navigation", 2, 3, 0), WEIGHT).load_state_dict(state)


@pytest.mark.parametrize("alike", [False, True])
def test_the_spec_of_a_run_is_that_of_its_environments(alike: bool) -> None:
    for settings in ({}, {"observe_changes": 2.0}):
        config = resolve(("test", {"task": "mpe2/simple_speaker_listener_v4", **settings}))
        assert run_spec(config, alike) == build_envs(config, 1, 0, alike=alike).spec
