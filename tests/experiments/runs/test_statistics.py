"""Statistics over seeds, and of a run's last steps."""

import numpy as np
import pytest

from matrpo.experiments.runs.statistics import bootstrap, interquartile_mean, probability_of_improvement, relative_gain


def test_the_interquartile_mean_is_of_the_middle_half():
    values = np.array([[1.0], [100.0], [2.0], [3.0], [4.0], [-50.0], [5.0], [6.0]])
    assert interquartile_mean(values) == pytest.approx([3.5])


def test_an_interval_holds_its_figure_and_one_seed_has_none():
    estimate, constant = bootstrap(np.array([[0.0, 7.0], [1.0, 7.0], [2.0, 7.0]]))
    assert 0.0 <= estimate.low < estimate.value == 1.0 < estimate.high <= 2.0
    assert (constant.low, constant.value, constant.high) == (7.0, 7.0, 7.0)
    (alone,) = bootstrap(np.array([[3.0]]))
    assert alone.value == 3.0
    assert np.isnan([alone.low, alone.high]).all()


def test_the_probability_of_improvement_counts_pairs_and_half_of_ties():
    estimate = probability_of_improvement(np.array([1.0, 3.0]), np.array([0.0, 3.0]))
    assert estimate.value == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    certain = probability_of_improvement(np.array([5.0, 6.0]), np.array([1.0, 2.0]))
    assert (certain.low, certain.value, certain.high) == (1.0, 1.0, 1.0)
    alone = probability_of_improvement(np.array([5.0]), np.array([1.0, 2.0]))
    assert alone.value == 1.0
    assert np.isnan([alone.low, alone.high]).all()


def test_a_gain_is_relative_to_the_size_of_the_other():
    assert relative_gain(np.array([-90.0, 30.0]), np.array([-100.0, 20.0])) == pytest.approx([10.0, 50.0])
