from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrpo.envs.particle.navigation import EPISODE_LENGTH, NavigationEnv
from matrpo.envs.vector_env import VectorStep
from matrpo.envs.wrapped.mpe2 import make_mpe2


def random_actions(env: NavigationEnv, steps: int, seed: int = 0) -> np.ndarray:
    shape = (steps, env.num_envs, env.spec.num_agents)
    return np.random.default_rng(seed).integers(0, 5, shape).astype(np.float32)


def crowding_action(env: NavigationEnv, random_action: np.ndarray) -> np.ndarray:
    """Agents far from the centre move towards it, the others at random: they keep running into each other."""
    x, y = env.state_dict()["positions"][:, : env.spec.num_agents].transpose(0, 2, 1)
    inwards = np.where(np.abs(x) > np.abs(y), np.where(x > 0, 1, 2), np.where(y > 0, 3, 4))
    return np.where(x**2 + y**2 > 0.05, inwards, random_action).astype(np.float32)


def place(env: NavigationEnv, agents: list[list[float]], landmarks: list[list[float]], velocity: float = 0.0) -> None:
    """Put the entities of environment 0 at the given places."""
    env.reset()
    state = env.state_dict()
    state["positions"][:, :, 0] = np.array(agents + landmarks).T
    state["velocities"][:, :, 0] = velocity
    env.load_state_dict(state)


def assert_same_step(a: VectorStep, b: VectorStep) -> None:
    for name in ("rewards", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for left, right in zip(a.observations, b.observations, strict=True):
        np.testing.assert_array_equal(left, right)
    assert (a.final_observations is None) == (b.final_observations is None)
    for left, right in zip(a.final_observations or [], b.final_observations or [], strict=True):
        np.testing.assert_array_equal(left, right)


class OriginalWorld:
    """mpe2's simple_spread world, started where an environment of the batch is."""

    def __init__(self, env: NavigationEnv, index: int) -> None:
        num_agents = env.spec.num_agents
        wrapped = make_mpe2("mpe2/simple_spread_v3", {"N": num_agents, "max_cycles": EPISODE_LENGTH + 1}, 1, 0)
        wrapped.reset()
        self.raw: Any = wrapped._copies[0].unwrapped
        self.world, self.scenario = self.raw.world, self.raw.scenario
        positions = env.state_dict()["positions"][:, :, index]
        for entity, position in zip(self.world.entities, positions.T, strict=True):
            entity.state.p_pos = position.copy()

    def step(self, actions: np.ndarray) -> None:
        self.raw.current_actions = [int(action) for action in actions]
        self.raw._execute_world_step()

    def rewards(self) -> list[float]:
        """By Table I, from mpe2's own functions."""
        agents = self.world.agents
        hits = [float(any(a is not b and self.scenario.is_collision(a, b) for b in agents)) for a in agents]
        rewards = [-hit for hit in hits]
        rewards[0] += self.scenario.global_reward(self.world)
        return rewards

    def observation(self, q: int) -> np.ndarray:
        """mpe2's observation without the silent agents' messages at its end."""
        agents = self.world.agents
        whole: np.ndarray = self.scenario.observation(agents[q], self.world)
        return whole[: len(whole) - 2 * (len(agents) - 1)].astype(np.float32)


@pytest.mark.parametrize(("num_agents", "num_envs"), [(1, 2), (3, 4), (12, 2)])
def test_every_step_of_an_episode_equals_mpe2(num_agents: int, num_envs: int) -> None:
    env = NavigationEnv(num_agents, num_envs, seed=1)
    env.reset()
    originals = [OriginalWorld(env, b) for b in range(num_envs)]
    collisions = 0.0
    for random_action in random_actions(env, EPISODE_LENGTH):
        joint_action = crowding_action(env, random_action)
        step = env.step(joint_action)
        state = env.state_dict()
        collisions -= step.rewards[:, 1:].sum()
        observations = step.final_observations or step.observations
        for b, original in enumerate(originals):
            original.step(joint_action[b])
            if step.final_observations is None:
                positions = [entity.state.p_pos for entity in original.world.entities]
                velocities = [agent.state.p_vel for agent in original.world.agents]
                np.testing.assert_allclose(state["positions"][:, :, b].T, positions, rtol=0, atol=1e-12)
                np.testing.assert_allclose(state["velocities"][:, :, b].T, velocities, rtol=0, atol=1e-12)
            np.testing.assert_allclose(step.rewards[b], original.rewards(), rtol=0, atol=1e-12)
            for q in range(num_agents):
                np.testing.assert_allclose(observations[q][b], original.observation(q), rtol=0, atol=1e-6)
    if num_agents > 1:
        assert collisions > 100, "the comparison should meet many collisions"


def test_a_violent_pile_up_equals_mpe2() -> None:
    env = NavigationEnv(6, 1, seed=0)
    spots = [[0.0, 0.0], [0.01, 0.0], [0.0, 0.02], [-0.05, 0.01], [0.1, 0.1], [0.02, -0.03]]
    place(env, spots, [[1.0, 1.0]] * 6)
    original = OriginalWorld(env, 0)
    for joint_action in random_actions(env, 50):
        env.step(joint_action)
        original.step(joint_action[0])
        positions = [entity.state.p_pos for entity in original.world.entities]
        np.testing.assert_allclose(env.state_dict()["positions"][:, :, 0].T, positions, rtol=0, atol=1e-12)


def test_rewards_by_hand() -> None:
    env = NavigationEnv(3, 1, seed=0)
    # Nothing touches; the nearest agents are at distances 0.5 (agent 0), 0.3 (agent 1) and 0.4 (agent 1).
    place(env, [[0.0, 0.0], [1.0, 0.0], [0.0, -2.0]], [[-0.3, 0.4], [1.0, 0.3], [1.4, 0.0]])
    np.testing.assert_allclose(env.step(env.spec.noop(1)).rewards, [[-1.2, 0.0, 0.0]], atol=1e-12)


def test_a_collision_costs_one_however_many_agents_are_hit() -> None:
    env = NavigationEnv(4, 1, seed=0)
    # Agent 1 lies between 0 and 2 and overlaps both; agent 3 is far from all. Every landmark is under agent 3.
    place(env, [[-0.28, 0.0], [0.0, 0.0], [0.28, 0.0], [5.0, 5.0]], [[5.0, 5.0]] * 4)
    np.testing.assert_allclose(env.step(env.spec.noop(1)).rewards, [[-1.0, -1.0, -1.0, 0.0]], atol=1e-12)


@pytest.mark.parametrize(("distance", "reward"), [(0.2999, -1.0), (0.3001, 0.0)])
def test_agents_collide_below_the_sum_of_their_radii(distance: float, reward: float) -> None:
    env = NavigationEnv(2, 1, seed=0)
    place(env, [[0.0, 0.0], [distance, 0.0]], [[0.0, 0.0], [0.0, 0.0]])
    assert env.step(env.spec.noop(1)).rewards[0, 1] == reward


@pytest.mark.parametrize(("action", "direction"), list(enumerate([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)])))
def test_actions_push_with_force_five(action: int, direction: tuple[int, int]) -> None:
    env = NavigationEnv(1, 1, seed=0)
    place(env, [[0.0, 0.0]], [[0.0, 0.0]])
    step = env.step(np.array([[action]], dtype=np.float32))
    np.testing.assert_allclose(step.observations[0][0, :2], 0.5 * np.array(direction), atol=1e-7)


def test_an_observation_is_velocity_position_landmarks_and_others() -> None:
    env = NavigationEnv(2, 1, seed=0)
    place(env, [[0.5, 0.25], [-1.0, 2.0]], [[1.0, 1.0], [3.0, -1.0]], velocity=0.125)
    first, second = env.observe()
    assert first[0].tolist() == [0.125, 0.125, 0.5, 0.25, 0.5, 0.75, 2.5, -1.25, -1.5, 1.75]
    assert second[0].tolist() == [0.125, 0.125, -1.0, 2.0, 2.0, -1.0, 4.0, -3.0, 1.5, -1.75]
    assert first.dtype == np.float32
    assert first.flags.c_contiguous


def test_coincident_agents_stay_finite() -> None:
    env = NavigationEnv(2, 1, seed=0)
    place(env, [[0.5, 0.5], [0.5, 0.5]], [[0.0, 0.0], [0.0, 0.0]])
    step = env.step(env.spec.noop(1))
    assert np.isfinite(step.observations[0]).all()
    assert step.rewards[0, 1] == -1.0


def test_an_episode_is_truncated_after_100_steps_and_the_next_begins_at_once() -> None:
    env = NavigationEnv(3, 2, seed=0)
    env.reset()
    for joint_action in random_actions(env, EPISODE_LENGTH - 1):
        step = env.step(joint_action)
        assert step.final_observations is None
        assert not step.truncated.any()
    unfinished = NavigationEnv(3, 2, seed=0)
    unfinished.load_state_dict(env.state_dict() | {"clock": np.array([0, 0])})
    expected_final = unfinished.step(random_actions(env, 1)[0])

    last = env.step(random_actions(env, 1)[0])
    assert last.truncated.all()
    assert last.ended.all()
    assert not last.terminated.any()
    np.testing.assert_array_equal(last.rewards, expected_final.rewards)
    assert last.final_observations is not None
    for q in range(3):
        np.testing.assert_array_equal(last.final_observations[q], expected_final.observations[q])
        assert (last.observations[q][:, :2] == 0).all(), "a new episode begins at rest"
        assert (np.abs(last.observations[q][:, 2:4]) <= 1).all()
        np.testing.assert_array_equal(last.observations[q], env.observe()[q])


def test_untrained_agents_earn_what_the_paper_says() -> None:
    env = NavigationEnv(3, 200, seed=0)
    env.reset()
    team = sum(env.step(actions).rewards.sum(axis=1) for actions in random_actions(env, EPISODE_LENGTH))
    assert -290 < np.mean(team) < -235


def test_returned_arrays_are_never_written_again() -> None:
    env = NavigationEnv(3, 2, seed=0)
    kept = [(array, array.copy()) for array in env.reset()]
    for joint_action in random_actions(env, EPISODE_LENGTH + 1):
        step = env.step(joint_action)
        arrays = [*step.observations, *(step.final_observations or []), step.rewards, step.truncated, step.terminated]
        kept += [(array, array.copy()) for array in arrays]
    for array, copy in kept:
        np.testing.assert_array_equal(array, copy)


@settings(max_examples=15, deadline=None)
@given(num_agents=st.integers(1, 7), num_envs=st.integers(1, 6), seed=st.integers(0, 2**40), steps=st.integers(0, 130))
def test_an_environments_trajectory_does_not_depend_on_the_batch(
    num_agents: int, num_envs: int, seed: int, steps: int
) -> None:
    alone, batch = NavigationEnv(num_agents, 1, seed), NavigationEnv(num_agents, num_envs, seed)
    pairs = zip(alone.reset(), batch.reset(), strict=True)
    assert all(np.array_equal(a[0], b[0]) for a, b in pairs)
    for joint_action in random_actions(batch, steps):
        one, many = alone.step(joint_action[:1]), batch.step(joint_action)
        np.testing.assert_array_equal(one.rewards[0], many.rewards[0])
        for a, b in zip(one.observations, many.observations, strict=True):
            np.testing.assert_array_equal(a[0], b[0])


def test_seeds_environments_and_episodes_all_start_differently() -> None:
    def starts(seed: int) -> np.ndarray:
        env = NavigationEnv(2, 3, seed)
        return np.concatenate([env.reset()[0], env.reset()[0]])

    rows = np.concatenate([starts(0), starts(1)])
    assert len(np.unique(rows, axis=0)) == 12
    np.testing.assert_array_equal(starts(0), rows[:6])


@settings(max_examples=15, deadline=None)
@given(num_agents=st.integers(1, 5), num_envs=st.integers(1, 4), before=st.integers(0, 120), after=st.integers(1, 120))
def test_a_restored_environment_continues_bit_for_bit(num_agents: int, num_envs: int, before: int, after: int) -> None:
    env = NavigationEnv(num_agents, num_envs, seed=3)
    env.reset()
    actions = random_actions(env, before + after)
    for joint_action in actions[:before]:
        env.step(joint_action)
    restored = NavigationEnv(num_agents, num_envs, seed=3)
    restored.load_state_dict(env.state_dict())
    for a, b in zip(env.observe(), restored.observe(), strict=True):
        np.testing.assert_array_equal(a, b)
    for joint_action in actions[before:]:
        assert_same_step(env.step(joint_action), restored.step(joint_action))


def test_a_state_is_a_copy_and_of_one_size() -> None:
    env = NavigationEnv(3, 2, seed=0)
    env.reset()
    state = env.state_dict()
    before = {key: value.copy() for key, value in state.items()}
    env.step(env.spec.noop(2))
    for key, value in state.items():
        np.testing.assert_array_equal(value, before[key])
    with pytest.raises(ValueError, match="saved state"):
        NavigationEnv(2, 2, seed=0).load_state_dict(state)
    with pytest.raises(ValueError, match="saved state"):
        env.load_state_dict({"positions": state["positions"]})


def test_misuse_is_refused() -> None:
    env = NavigationEnv(2, 2, seed=0)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(env.spec.noop(2))
    env.reset()
    with pytest.raises(ValueError, match="shape"):
        env.step(np.zeros((2, 3), dtype=np.float32))
    for wrong in (-1.0, 5.0, np.nan):
        with pytest.raises(ValueError, match="outside"):
            env.step(np.array([[0.0, 0.0], [0.0, wrong]], dtype=np.float32))


def test_a_picture_shows_landmarks_and_agents_where_they_are() -> None:
    env = NavigationEnv(2, 1, seed=0)
    place(env, [[-0.5, 0.5], [0.5, 0.5]], [[-0.5, -0.5], [0.5, -0.5]])
    frame = env.render()
    assert frame.shape == (350, 350, 3)
    assert frame.dtype == np.uint8
    left, right = (int(350 * (x + 1.25) / 2.5) for x in (-0.5, 0.5))
    top, bottom = left, right
    red, green, blue = (int(value) for value in frame[top, left])
    assert red > green > blue, "agent 0 is orange"
    red, green, blue = (int(value) for value in frame[top, right])
    assert red < green < blue, "the others are blue"
    assert frame[bottom, left].max() < 80
    assert frame[bottom, right].max() < 80
    assert frame[175, 175].min() > 240


def test_a_picture_follows_agents_that_leave_the_square() -> None:
    env = NavigationEnv(1, 1, seed=0)
    place(env, [[4.0, -3.0]], [[0.0, 0.0]])
    frame = env.render().astype(int)
    orange = (frame[:, :, 0] - frame[:, :, 2] > 60).sum()
    assert orange > 100
