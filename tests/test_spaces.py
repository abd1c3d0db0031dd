"""Bounds of each component, the units in which policies act, and what spaces are called."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrpo.errors import ConfigError
from matrpo.spaces import Box, Discrete, MultiDiscrete, TaskSpec

INF = float("inf")


def spec(*spaces):
    return TaskSpec("made-up", tuple(f"agent_{q}" for q in range(len(spaces))), (1,) * len(spaces), spaces)


def test_bounds_are_of_each_component_however_they_are_given():
    assert Box(2, -1.0, 1.0) == Box(2, (-1, -1), np.ones(2, np.float32))
    assert hash(Box(2, -1.0, 1.0)) == hash(Box(2, [-1.0, -1.0], 1))
    assert Box(2, (0, 100), (1, 200)).low == (0.0, 100.0)
    assert Box(2, (0, 100), (1, 200)) != Box(2, 0.0, 200.0)


def test_names_are_short_where_components_are_alike():
    assert str(Box(2, -1.0, 1.0)) == "Box(2, -1 to 1)"
    assert str(Box(2, (0, 100), (1, 200))) == "Box(2, 0 to 1, 100 to 200)"
    assert str(MultiDiscrete((3, 4))) == "MultiDiscrete(3, 4)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Box(2, (0, 0, 0), 1.0), "a Box of 2 components has low of shape"),
        (lambda: Box(2, 0.0, np.ones((1, 2))), "a Box of 2 components has high of shape"),
        (lambda: Box(2, (0, 3), (1, 2)), "expected low <= high"),
        (lambda: Box(1, float("nan"), 1.0), "expected low <= high"),
        (lambda: MultiDiscrete(()), r"sizes \(\)"),
        (lambda: MultiDiscrete((3, 0)), r"sizes \(3, 0\)"),
        (lambda: MultiDiscrete((3, 2**24 + 1)), r"sizes \(3, 16777217\)"),
        (lambda: Discrete(0), "a Discrete has 0 actions: expected 1 to 16777216"),
        (lambda: Discrete(2**24 + 1), "a Discrete has 16777217 actions"),
    ],
)
def test_a_space_that_cannot_be_is_refused(make, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


bounds = st.tuples(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32)).map(sorted)


@given(st.lists(bounds, min_size=1, max_size=5))
def test_policies_act_in_half_ranges_about_the_middle(pairs):
    low, high = np.array(pairs).T
    task = spec(Discrete(9), Box(len(pairs), low, high), MultiDiscrete((3, 2)))

    def converted(unit):
        acted = np.full((2, task.joint_action_width), unit, np.float32)
        acted[:, 0], acted[:, -2:] = 7, 1
        return task.task_units(acted)

    for unit, expected in ((-1.0, low), (0.0, low / 2 + high / 2), (1.0, high), (3.0, 2 * high - low)):
        found = converted(unit)
        assert found.dtype == np.float32
        scale = np.abs([low, high]).max(axis=0)
        assert (np.abs(found[1, 1:-2] - expected) <= 4e-7 * scale + 1e-30).all()
        assert found[0, [0, -2, -1]].tolist() == [7, 1, 1]


def test_a_component_without_a_range_keeps_the_task_s_unit():
    huge = float(np.finfo(np.float32).max)
    task = spec(Box(5, (-INF, 0.0, -INF, -huge, 100.0), (INF, INF, 3.0, huge, 200.0)))
    acted = np.array([[7.5, -2.0, 9.0, 4.0, 0.5]], np.float32)
    assert task.task_units(acted).tolist() == [[7.5, -2.0, 9.0, 4.0, 175.0]]


def test_where_units_agree_nothing_is_computed():
    task = spec(Discrete(3), Box(2, -1.0, 1.0), Box(1, -INF, INF), MultiDiscrete((2, 2)))
    acted = task.noop(4)
    assert task.task_units(acted) is acted


def test_what_checkpoints_know_a_space_by_says_in_which_unit_policies_act():
    """Those that were written before there were bounds of each component still fit where units are the task's."""
    assert repr(Box(2, -1.0, 1.0)) == "Box(size=2, low=-1.0, high=1.0)"
    assert repr(Box(1, -INF, INF)) == "Box(size=1, low=-inf, high=inf)"
    assert repr(Box(2, 0.0, 1.0)) == "Box(size=2, low=(0.0, 0.0), high=(1.0, 1.0))"
    assert repr(Discrete(5)) == "Discrete(n=5)"
