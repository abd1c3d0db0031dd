"""The examples by which the HARL papers argue, played by the algorithms themselves."""

import math

import numpy as np
import pytest
from learning import GAME, Learning, probabilities, start_at

from matrpo.envs.games import Differentiable, Miscoordination, OppositeHalves


def returns_after(algo, game, outputs, **settings):
    """The exact expected return of policies that begin with these outputs, before and after an update."""
    learning = Learning(algo, f"game/{game.name}", agents=2, **{**GAME, **settings})
    policies = learning.algorithm.policies
    for policy, own in zip(policies, outputs, strict=True):
        start_at(policy, own)
    before = game.expected_return([probabilities(policy) for policy in policies])
    learning.iterate()
    return before, game.expected_return([probabilities(policy) for policy in policies])


MAXIMISE = {"num_envs": 500, "rollout_length": 1, "policy_epochs": 150, "actor_lr": 0.1, "policy_batch": 500}


@pytest.mark.parametrize(("algo", "ends_at"), [("maa2c", -1.0), ("haa2c", 2.0)])
def test_maximising_at_once_ends_at_the_worst_return_and_in_turn_at_the_best(algo, ends_at):
    """Example 1 (Zhong et al.): both play 0 with probability 0.8, and each maximises its own surrogate to the end."""
    likely = [math.log(0.8), math.log(0.2)]
    before, after = returns_after(algo, Miscoordination(), [likely, likely], **MAXIMISE)
    assert before == pytest.approx(2 * 2 * 0.8 * 0.2 - 0.2 * 0.2)
    assert after == pytest.approx(ends_at, abs=0.1)


TRUST_REGION = {"num_envs": 4000, "rollout_length": 1, "kl_step": 0.5, "damping": 1e-3, "accept_ratio": 0.0}


@pytest.mark.parametrize(("algo", "improves"), [("itrpo", False), ("hatrpo", True)])
def test_trust_region_steps_at_once_lower_the_return_and_in_turn_raise_it(algo, improves):
    """Fig. 1 (Kuba et al.): r = a^1 a^2, means -0.25 and 0.25, a KL ball of 0.5."""
    settings = {**TRUST_REGION, "initial_log_std": 0.0}
    before, after = returns_after(algo, Differentiable(), [[-0.25], [0.25]], **settings)
    assert before == pytest.approx(-0.0625)
    assert (after > 0.3) if improves else (after < -0.3)


OPPOSITE = {"num_envs": 256, "rollout_length": 1, "policy_epochs": 5, "actor_lr": 0.1, "policy_batch": 256}


@pytest.mark.parametrize("temperature", [0.05, None])
def test_soft_actor_critics_in_turn_earn_all(temperature, tmp_path):
    """Whether entropy has a fixed price, or one that falls until the policies are nearly deterministic."""
    settings = {"temperature": temperature, "temperature_lr": 0.05, "target_entropy": 0.05}
    replay = {"warmup_steps": 256, "batch_size": 128, "updates_per_step": 2.5, "polyak": 0.05, "n_step": 1}
    rates = {"actor_lr": 0.01, "critic_lr": 0.01, "num_envs": 64, "rollout_length": 4}
    learning = Learning("hasac", "game/opposite-halves", agents=4, hidden_sizes=[32], **rates, **replay, **settings)
    learning.algorithm.open_files(tmp_path, resume=False)
    for _ in range(8):
        learning.iterate()
    assert np.mean([step.agents[0].reward.mean() for step in learning.steps[1:]]) > 0.95


@pytest.mark.parametrize("algo", ["mappo", "ippo"])
def test_a_shared_policy_that_is_told_whose_turn_it_is_earns_all(algo):
    settings = {**GAME, **OPPOSITE, "share_parameters": True, "agent_id": True}
    learning = Learning(algo, "game/opposite-halves", agents=4, **settings)
    for _ in range(25):
        learning.iterate()
    assert np.mean([step.agents[0].reward.mean() for step in learning.steps[1:]]) > 0.95


@pytest.mark.parametrize(("algo", "shared"), [("mappo", True), ("mappo", False), ("happo", False)])
def test_a_shared_policy_cannot_earn_what_policies_of_their_own_do(algo, shared):
    """Proposition 1 (Kuba et al.): a shared policy earns at most 2 / 2^n of the optimum, 1."""
    settings = {**GAME, **OPPOSITE, "share_parameters": shared}
    learning = Learning(algo, "game/opposite-halves", agents=4, **settings)
    earned = []
    for _ in range(25):
        learning.iterate()
        earned.append(OppositeHalves().expected_return([probabilities(p) for p in learning.algorithm.policies]))
    if shared:
        assert max(earned) <= 2 / 2**4 + 1e-6
    else:
        assert max(earned) > 0.95
