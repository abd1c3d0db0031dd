import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matrpo.envs.reward_scale import RewardScale

REWARDS = hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.floats(-100, 100))


def discounted(rewards: np.ndarray, ended: np.ndarray, gamma: float) -> np.ndarray:
    values, running = [], np.zeros(rewards.shape[1])
    for reward, end in zip(rewards, ended, strict=True):
        running = gamma * running + reward
        values.append(running)
        running = running * ~end
    return np.array(values)


@given(rewards=REWARDS, data=st.data(), gamma=st.floats(0, 1))
def test_the_scale_is_the_deviation_of_all_discounted_returns_so_far(
    rewards: np.ndarray, data: st.DataObject, gamma: float
) -> None:
    ended = data.draw(hnp.arrays(bool, rewards.shape))
    values = discounted(rewards, ended, gamma)
    scale = RewardScale(gamma, rewards.shape[1])
    for t in range(len(rewards)):
        scale.update(rewards[t], ended[t])
        seen = values[: t + 1]
        expected = max(seen.std(), 0.1 * np.sqrt(np.square(seen).mean()))
        assert scale.value > 0
        if expected > 1e-6:
            assert scale.value == pytest.approx(expected, rel=1e-6)


def test_the_scale_is_one_before_any_reward() -> None:
    scale = RewardScale(0.9, 3)
    assert scale.value == 1.0
    scale.update(np.zeros(3), np.zeros(3, dtype=bool))
    assert scale.value == 1.0


def test_equal_rewards_do_not_divide_by_zero() -> None:
    scale = RewardScale(0.0, 4)
    for _ in range(5):
        scale.update(np.full(4, -2.0), np.zeros(4, dtype=bool))
    assert scale.value == pytest.approx(0.2)


def test_scaling_is_free_of_units() -> None:
    rng = np.random.default_rng(0)
    small, large = RewardScale(0.9, 5), RewardScale(0.9, 5)
    for _ in range(20):
        rewards = rng.normal(size=5)
        small.update(rewards, rewards > 1)
        large.update(1000 * rewards, rewards > 1)
        assert large.value == pytest.approx(1000 * small.value)


def test_a_restored_scale_continues_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    scale = RewardScale(0.97, 3)
    for _ in range(10):
        scale.update(rng.normal(size=3), rng.random(3) < 0.2)
    restored = RewardScale(0.97, 3)
    restored.load_state_dict(scale.state_dict())
    for _ in range(10):
        rewards, ended = rng.normal(size=3), rng.random(3) < 0.2
        scale.update(rewards, ended)
        restored.update(rewards, ended)
        assert restored.value == scale.value
