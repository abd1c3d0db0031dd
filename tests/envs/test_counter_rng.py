import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from matrpo.envs.counter_rng import bits, uniform

KEYS = st.integers(min_value=0, max_value=2**63)


def draw(seed: int, env: int, episode: int, draws: int = 8) -> list[float]:
    return uniform(seed, np.array([env]), np.array([episode]), draws)[:, 0].tolist()


@given(seed=KEYS, env=st.integers(0, 10_000), episode=st.integers(0, 10**9))
def test_a_draw_depends_on_its_key_alone(seed: int, env: int, episode: int) -> None:
    alone = draw(seed, env, episode)
    among_others = uniform(seed, np.array([5, env, 17]), np.array([0, episode, 3]), 20)
    assert among_others[:8, 1].tolist() == alone


@given(seed=KEYS, env=st.integers(0, 10_000), episode=st.integers(0, 10**9))
def test_changing_any_part_of_the_key_changes_the_draws(seed: int, env: int, episode: int) -> None:
    here = draw(seed, env, episode)
    for other in (draw(seed + 1, env, episode), draw(seed, env + 1, episode), draw(seed, env, episode + 1)):
        assert not set(here) & set(other)


@given(seed=KEYS, first=st.integers(0, 10_000))
def test_draws_can_begin_anywhere(seed: int, first: int) -> None:
    envs, episodes = np.array([4, 9]), np.array([2, 0])
    whole = uniform(seed, envs, episodes, first + 3)
    np.testing.assert_array_equal(uniform(seed, envs, episodes, 3, first), whole[first:])
    each = uniform(seed, envs, episodes, 3, np.array([first, 0]))
    np.testing.assert_array_equal(each[:, 0], whole[first:, 0])
    np.testing.assert_array_equal(each[:, 1], whole[:3, 1])


def test_the_generator_is_splitmix64() -> None:
    # The key of (seed, env, episode) is itself a chain of splitmix64 outputs; this is that chain in plain integers.
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1

    def mix(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    assert mix(golden) == 0xE220A8397B1DCDAF  # the first output of the reference implementation, seed 0
    key = mix((7 + golden) & mask)
    key = mix((key + golden * (3 + 1)) & mask)
    key = mix((key + golden * (11 + 1)) & mask)
    expected = [mix((key + golden * i) & mask) for i in (1, 2, 3)]
    assert bits(7, np.array([3]), np.array([11]), 3)[:, 0].tolist() == expected


def test_draws_are_uniform() -> None:
    numbers = uniform(0, np.arange(1000), np.zeros(1000, dtype=np.int64), 100)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    # 5000 expected in each bin, standard deviation 69.
    assert np.abs(counts - 5000).max() < 5 * 69
    assert abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(numbers[:, :-1].ravel(), numbers[:, 1:].ravel())[0, 1]) < 0.02
