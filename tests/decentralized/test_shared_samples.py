"""Consensus on some of an iteration's samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrpo.decentralized.shared_samples import SharedSamples
from matrpo.errors import ConfigError
from matrpo.settings.config import Config, resolve


def config_of(shared, seed=0, num_envs=5, rollout_length=8):
    settings = {"seed": seed, "num_envs": num_envs, "rollout_length": rollout_length, "consensus_samples": shared}
    return resolve(("test", settings))


@given(st.integers(0, 2**63 - 1), st.integers(1, 10**6), st.integers(1, 39))
def test_rows_are_distinct_samples_in_order_and_a_function_of_seed_and_iteration(seed, iteration, shared):
    config = config_of(shared, seed)
    rows = SharedSamples.of(config, iteration).rows
    assert len(rows) == shared
    assert (np.diff(rows) > 0).all()
    assert rows[0] >= 0
    assert rows[-1] < 40
    np.testing.assert_array_equal(rows, SharedSamples.of(config, iteration).rows)


def test_every_sample_is_drawn_as_often_as_any_other():
    config, iterations = config_of(10), 2000
    counts = np.bincount(np.concatenate([SharedSamples.of(config, i).rows for i in range(iterations)]), minlength=40)
    expected = iterations * 10 / 40
    assert abs(counts - expected).max() < 5 * np.sqrt(expected * 0.75)


@pytest.mark.parametrize("config", [Config(), config_of(40)])
def test_without_the_setting_arrays_are_what_they_were(config):
    shared, array = SharedSamples.of(config, 3), np.ones((3, config.samples), np.float32)
    assert shared.spread(array) is array
    assert shared.select(array) is array


def test_links_weigh_as_much_as_if_their_mean_were_over_all_samples():
    """For a step whose weights count through their products with Jacobians, a mean over samples: eq. (22)."""
    shared = SharedSamples.of(config_of(8), 3)
    jacobian, term = np.random.default_rng(0).standard_normal((2, 3, 40)).astype(np.float32)
    weights, ratios = shared.spread(term[:, :8]), shared.select(jacobian)
    assert weights.dtype == np.float32
    np.testing.assert_allclose((jacobian * weights).mean(), (jacobian[:, shared.rows] * term[:, :8]).mean(), rtol=1e-5)
    np.testing.assert_array_equal(ratios, jacobian[:, shared.rows])
    assert ratios.flags.c_contiguous
    assert not weights[:, np.setdiff1d(np.arange(40), shared.rows)].any()


def test_more_samples_than_there_are_is_a_clear_error():
    with pytest.raises(ConfigError, match=r"'consensus_samples'.*at most the 40 samples"):
        config_of(41)
