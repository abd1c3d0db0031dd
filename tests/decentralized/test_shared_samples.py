"""Consensus on some of an iteration's samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrpo.decentralized.shared_samples import on_shared_samples, shared_rows
from matrpo.errors import ConfigError
from matrpo.settings.config import Config, resolve


def config_of(shared, seed=0, num_envs=5, rollout_length=8):
    settings = {"seed": seed, "num_envs": num_envs, "rollout_length": rollout_length, "consensus_samples": shared}
    return resolve(("test", settings))


@given(st.integers(0, 2**63), st.integers(1, 10**6), st.integers(1, 40))
def test_rows_are_distinct_samples_in_order_and_a_function_of_seed_and_iteration(seed, iteration, shared):
    config = config_of(shared, seed)
    rows = shared_rows(config, iteration)
    assert len(rows) == shared
    assert (np.diff(rows) > 0).all()
    assert rows[0] >= 0
    assert rows[-1] < 40
    np.testing.assert_array_equal(rows, shared_rows(config, iteration))


def test_every_sample_is_drawn_as_often_as_any_other():
    config, iterations = config_of(10), 2000
    counts = np.bincount(np.concatenate([shared_rows(config, i) for i in range(iterations)]), minlength=40)
    expected = iterations * 10 / 40
    assert abs(counts - expected).max() < 5 * np.sqrt(expected * 0.75)


def test_without_the_setting_the_step_is_what_it_was():
    def step(pull):
        return pull

    assert on_shared_samples(step, Config(), 3) is step
    assert on_shared_samples(step, config_of(40), 3) is step


def test_links_weigh_as_much_as_if_their_mean_were_over_all_samples():
    """For a step whose weights count through their products with Jacobians, a mean over samples: eq. (22)."""
    config = config_of(8)
    rows = shared_rows(config, 3)
    rng = np.random.default_rng(0)
    jacobian, pull = rng.standard_normal((2, 3, 40)).astype(np.float32)
    seen = []

    def step(weights):
        seen.append(weights)
        return jacobian

    ratios = on_shared_samples(step, config, 3)(pull[:, :8])
    assert seen[0].dtype == np.float32
    np.testing.assert_allclose((jacobian * seen[0]).mean(), (jacobian[:, rows] * pull[:, :8]).mean(), rtol=1e-5)
    np.testing.assert_array_equal(ratios, jacobian[:, rows])
    assert ratios.flags.c_contiguous
    outside = np.setdiff1d(np.arange(40), rows)
    assert not seen[0][:, outside].any()


def test_more_samples_than_there_are_is_a_clear_error():
    with pytest.raises(ConfigError, match=r"'consensus_samples'.*at most the 40 samples"):
        config_of(41)
