"""The games' rewards as the papers print them, and their values by hand and by simulation."""

from itertools import product

import numpy as np
import pytest

from matrpo.envs.games import Differentiable, Game, GameEnv, Miscoordination, OppositeHalves, game_spec
from matrpo.envs.registry import make_env, task_spec
from matrpo.errors import ConfigError


def policy(probability_of_one: float) -> np.ndarray:
    return np.array([1 - probability_of_one, probability_of_one])


def by_enumeration(game: Game, policies: list[np.ndarray]) -> float:
    """The sum over all joint actions of their probability times what they pay."""
    joint = np.array(list(product((0, 1), repeat=len(policies))))
    probabilities = np.prod([p[joint[:, q]] for q, p in enumerate(policies)], axis=0)
    return float(probabilities @ game.rewards(joint.astype(np.float64)))


def test_the_differentiable_game_pays_the_product() -> None:
    game = Differentiable()
    np.testing.assert_array_equal(game.rewards(np.array([[2.0, -3.0], [0.5, 0.5], [0.0, 7.0]])), [-6.0, 0.25, 0.0])


def test_trust_region_steps_at_once_lower_the_value_where_either_alone_raises_it() -> None:
    """Fig. 1 of Kuba et al.: means -0.25 and 0.25, unit variances, a KL ball of 0.5, whose radius is 1."""
    value = Differentiable().expected_return
    before, after = np.array([-0.25]), np.array([0.75])
    assert value([before, -before]) == -0.0625
    assert value([after, -before]) == value([before, -after]) == 0.1875
    assert value([after, -after]) == -0.5625


def test_miscoordination_is_example_1() -> None:
    game = Miscoordination()
    joint = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float64)
    assert game.rewards(joint).tolist() == [0, 2, 2, -1]
    old = [policy(0.3), policy(0.3)]
    assert game.expected_return(old) == pytest.approx(2 * 2 * 0.3 * 0.7 - 0.3**2)
    for q in range(2):
        best_alone = [game.expected_return([policy(a), old[1]] if q == 0 else [old[0], policy(a)]) for a in (0, 1)]
        assert best_alone[1] > best_alone[0], "against an opponent that plays 0 with more than 0.6, 1 is better"
    assert game.expected_return([policy(1), policy(1)]) == -1 == game.payoffs.min()


@pytest.mark.parametrize("num_agents", [2, 4, 8])
def test_opposite_halves_is_proposition_1(num_agents: int) -> None:
    game, half = OppositeHalves(), num_agents // 2
    joint = np.array(list(product((0, 1), repeat=num_agents)), dtype=np.float64)
    assert game.rewards(joint).sum() == 2
    best = [policy(0)] * half + [policy(1)] * half
    assert game.expected_return(best) == 1 == game.expected_return(best[::-1])
    shared = [game.expected_return([policy(p)] * num_agents) for p in np.linspace(0, 1, 101)]
    assert max(shared) == shared[50] == 2 / 2**num_agents


@pytest.mark.parametrize(("game", "num_agents"), [(Miscoordination(), 2), (OppositeHalves(), 4)])
def test_a_value_is_the_mean_over_all_joint_actions(game: Game, num_agents: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        policies = [policy(p) for p in rng.random(num_agents)]
        assert game.expected_return(policies) == pytest.approx(by_enumeration(game, policies), abs=1e-12)


@pytest.mark.parametrize(("game", "num_agents"), [(Differentiable(), 2), (Miscoordination(), 2), (OppositeHalves(), 4)])
def test_an_episode_is_one_step_that_terminates_and_pays_all_the_same(game: Game, num_agents: int) -> None:
    env = GameEnv(game, game_spec(game, num_agents), num_envs=50)
    env.reset()
    actions = np.random.default_rng(1).integers(0, 2, (50, num_agents)).astype(np.float32)
    step = env.step(actions)
    assert step.terminated.all()
    assert not step.truncated.any()
    assert step.ended.all()
    assert step.final_observations is not None
    expected = game.rewards(actions.astype(np.float64))
    assert np.ptp(expected) > 0
    for q in range(num_agents):
        np.testing.assert_array_equal(step.rewards[:, q], expected)
        np.testing.assert_array_equal(step.observations[q], np.ones((50, 1)))


def test_a_saved_game_goes_on() -> None:
    env, other = make_env("game/opposite-halves", 6, 3, 0), make_env("game/opposite-halves", 6, 3, 0)
    with pytest.raises(RuntimeError, match="reset"):
        other.step(other.spec.noop(3))
    env.reset()
    state = env.state_dict()
    assert state is not None
    other.load_state_dict(state)
    other.step(other.spec.noop(3))
    for wrong in ({}, {"plays": np.zeros(2)}):
        with pytest.raises(ValueError, match="saved state"):
            other.load_state_dict(wrong)


def test_an_odd_number_cannot_be_halved() -> None:
    with pytest.raises(ConfigError, match="bad value 5 for 'agents': task 'game/opposite-halves' has an even number"):
        task_spec("game/opposite-halves", 5)
