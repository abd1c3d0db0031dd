"""What holds for every batched particle task: episodes, saved states, independence of the batch, pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from matrpo.envs.particle.collect_treasure import CollectTreasureEnv
from matrpo.envs.particle.navigation import NavigationEnv
from matrpo.envs.particle.particle_env import ParticleEnv
from matrpo.envs.particle.simple_reference import SimpleReferenceEnv
from matrpo.envs.particle.simple_speaker_listener import SimpleSpeakerListenerEnv
from matrpo.envs.particle.simple_spread import SimpleSpreadEnv
from matrpo.envs.particle.treasure import TreasureEnv
from matrpo.envs.vector_env import VectorStep
from matrpo.spaces import Discrete

Make = Callable[[int, int, bool], ParticleEnv]
"""Builds a task from (num_envs, seed, continuous)."""

TASKS: dict[str, Make] = {
    "navigation": lambda *arguments: NavigationEnv(3, *arguments),
    "treasure-5": lambda *arguments: TreasureEnv(5, *arguments),
    "treasure-2": lambda *arguments: TreasureEnv(2, *arguments),
    "simple_spread": lambda *arguments: SimpleSpreadEnv(3, *arguments),
    "simple_reference": SimpleReferenceEnv,
    "simple_speaker_listener": SimpleSpeakerListenerEnv,
    "collect_treasure-8": lambda *arguments: CollectTreasureEnv(8, *arguments),
    "collect_treasure-2": lambda *arguments: CollectTreasureEnv(2, *arguments),
}
every_task = pytest.mark.parametrize("make", TASKS.values(), ids=TASKS.keys())
both_spaces = pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])


def random_actions(env: ParticleEnv, steps: int) -> np.ndarray:
    draws = np.random.default_rng(1)
    columns = [
        draws.integers(0, space.n, (steps, env.num_envs, 1))
        if isinstance(space, Discrete)
        else draws.uniform(-0.2, 1.2, (steps, env.num_envs, space.size))
        for space in env.spec.action_spaces
    ]
    return np.concatenate(columns, axis=2).astype(np.float32)


def arrays_of(step: VectorStep) -> list[np.ndarray]:
    flags = [step.rewards, step.terminated, step.truncated]
    return [*step.observations, *(step.final_observations or []), *flags]


@both_spaces
@every_task
def test_observations_actions_and_rewards_have_the_shapes_that_the_spec_names(make: Make, continuous: bool) -> None:
    env = make(3, 0, continuous)
    step_observations = [env.reset(), env.step(random_actions(env, 1)[0]).observations, env.observe()]
    for observations in step_observations:
        assert [array.shape for array in observations] == [(3, size) for size in env.spec.observation_sizes]
        assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in observations)
    assert env.step(env.spec.noop(3)).rewards.shape == (3, env.spec.num_agents)


@both_spaces
@every_task
def test_an_environments_trajectory_does_not_depend_on_the_batch(make: Make, continuous: bool) -> None:
    alone, batch = make(1, 5, continuous), make(4, 5, continuous)
    pairs = zip(alone.reset(), batch.reset(), strict=True)
    assert all(np.array_equal(a[0], b[0]) for a, b in pairs)
    for joint_action in random_actions(batch, 130):
        one, many = alone.step(joint_action[:1]), batch.step(joint_action)
        for a, b in zip(arrays_of(one), arrays_of(many), strict=True):
            np.testing.assert_array_equal(a[0], b[0])


@both_spaces
@every_task
def test_a_restored_environment_continues_bit_for_bit(make: Make, continuous: bool) -> None:
    env, restored = make(3, 2, continuous), make(3, 2, continuous)
    env.reset()
    actions = random_actions(env, 150)
    for joint_action in actions[:20]:
        env.step(joint_action)
    state = env.state_dict()
    kept = {key: value.copy() for key, value in state.items()}
    restored.load_state_dict(state)
    for a, b in zip(env.observe(), restored.observe(), strict=True):
        assert a.tobytes() == b.tobytes()
    for joint_action in actions[20:]:
        for a, b in zip(arrays_of(env.step(joint_action)), arrays_of(restored.step(joint_action)), strict=True):
            assert a.tobytes() == b.tobytes()
    for key, value in kept.items():
        np.testing.assert_array_equal(state[key], value, err_msg="a state is a copy")


@every_task
def test_a_state_of_another_size_is_refused(make: Make) -> None:
    env, larger = make(2, 0, False), make(3, 0, False)
    larger.reset()
    with pytest.raises(ValueError, match="saved state"):
        env.load_state_dict(larger.state_dict())


@every_task
def test_an_episode_is_truncated_at_its_length_and_its_last_observation_is_kept(make: Make) -> None:
    env, endless = make(2, 0, False), make(2, 0, False)
    env.reset()
    length = env.spec.episode_length
    assert length is not None
    actions = random_actions(env, length)
    for joint_action in actions[:-1]:
        step = env.step(joint_action)
        assert step.final_observations is None
        assert not step.truncated.any()
    state = env.state_dict()
    state["clock"] = np.array([length - 2, 0])
    endless.load_state_dict(state)
    expected = endless.step(actions[-1])
    last = env.step(actions[-1])
    assert last.truncated.all()
    assert not last.terminated.any()
    assert last.final_observations is not None
    assert [array.shape for array in last.final_observations] == [array.shape for array in last.observations]
    if "away" not in state:
        np.testing.assert_array_equal(last.rewards, expected.rewards)
        for ours, theirs in zip(last.final_observations, expected.observations, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for now, later, final in zip(env.observe(), last.observations, last.final_observations, strict=True):
        np.testing.assert_array_equal(now, later)
        assert not np.array_equal(later, final)


@every_task
def test_returned_arrays_are_never_written_again(make: Make) -> None:
    env = make(2, 0, False)
    kept = [(array, array.copy()) for array in env.reset()]
    for joint_action in random_actions(env, 101):
        kept += [(array, array.copy()) for array in arrays_of(env.step(joint_action))]
    for array, copy in kept:
        np.testing.assert_array_equal(array, copy)


@every_task
def test_seeds_environments_and_episodes_all_start_differently(make: Make) -> None:
    def starts(seed: int) -> np.ndarray:
        env = make(3, seed, False)
        states = []
        for _ in range(2):
            env.reset()
            states += list(env.state_dict()["positions"].transpose(2, 0, 1).reshape(3, -1))
        return np.array(states)

    rows = np.concatenate([starts(0), starts(1)])
    assert len(np.unique(rows, axis=0)) == 12
    np.testing.assert_array_equal(starts(0), rows[:6])


@both_spaces
@every_task
def test_misuse_is_refused(make: Make, continuous: bool) -> None:
    env = make(2, 0, continuous)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(env.spec.noop(2))
    env.reset()
    with pytest.raises(ValueError, match="shape"):
        env.step(np.zeros((2, env.spec.joint_action_width + 1), dtype=np.float32))
    if not continuous:
        for wrong in (-1.0, float(env.spec.action_spaces[-1].n), np.nan):  # type: ignore[union-attr]
            joint_action = env.spec.noop(2)
            joint_action[1, -1] = wrong
            with pytest.raises(ValueError, match="outside"):
                env.step(joint_action)


@every_task
def test_goals_and_colours_take_every_value(make: Make) -> None:
    env = make(200, 0, False)
    env.reset()
    state: dict[str, Any] = env.state_dict()
    for key in ("goals", "goal"):
        if key in state:
            assert np.unique(state[key]).tolist() == [0, 1, 2]
    if "colours" in state:
        banks = env.spec.num_agents - len(state["holding"])
        assert np.unique(state["colours"]).tolist() == list(range(banks))


@every_task
def test_a_picture_is_drawn_of_every_state(make: Make) -> None:
    env = make(1, 0, False)
    env.reset()
    before = env.render()
    for joint_action in random_actions(env, 10):
        env.step(joint_action)
    after = env.render()
    assert before.shape == (350, 350, 3)
    assert before.dtype == np.uint8
    assert (before != after).any()
    assert (before != np.array([250, 250, 248])).any(axis=2).mean() > 0.005
