"""Gymnasium's action spaces: what environments receive is in them, and masks mean what `sample` takes them for."""

import warnings

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from matrpo.envs.wrapped.gymnasium_actions import converter
from matrpo.errors import ConfigError
from matrpo.spaces import Box, Discrete, MultiDiscrete, TaskSpec

NINE = np.full(9, 9.0, np.float32)

integers = st.sampled_from([np.int8, np.int32, np.int64, np.uint8])
shapes = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)


@st.composite
def multi_discrete(draw):
    sizes = np.array(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    sizes = sizes.reshape(draw(st.sampled_from([sizes.shape, (1, *sizes.shape)])))
    return spaces.MultiDiscrete(sizes, dtype=draw(integers), start=np.full(sizes.shape, draw(st.integers(0, 3))))


discrete = st.one_of(
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 5), st.integers(-2, 2)),
    multi_discrete(),
    st.builds(spaces.MultiBinary, st.one_of(st.integers(1, 3), shapes)),
)
nested = st.recursive(discrete, lambda inner: st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple), max_leaves=4)


def has(space, action):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return space.contains(action)


@settings(max_examples=40)
@given(nested, st.randoms(use_true_random=False))
def test_every_choice_is_an_element_of_the_space_and_of_its_own(space, random):
    made = converter("task", "agent", space)
    indices = [[random.randrange(n) for n in made.space.sizes] for _ in range(8)]
    indices += [[0] * made.space.width, [n - 1 for n in made.space.sizes]]
    found = [made.value(np.array(row, np.float32)) for row in indices]
    assert all(has(space, action) for action in found)
    flat = [spaces.flatten(space, action).tolist() for action in found]
    assert len(set(map(tuple, flat))) == len(set(map(tuple, indices)))


@settings(max_examples=40)
@given(nested, st.integers(0, 2**32 - 1))
def test_masks_are_those_that_sample_takes(space, seed):
    made = converter("task", "agent", space)
    space.seed(seed)
    mask = _some_mask(space, np.random.default_rng(seed))
    allowed = np.split(made.mask(mask), np.cumsum(made.space.sizes)[:-1])
    assert len(made.mask(mask)) == made.space.parameters
    for _ in range(5):
        choices = _choices(space, space.sample(mask=mask))
        assert all(part[chosen] for part, chosen in zip(allowed, choices, strict=True))
    np.testing.assert_array_equal(made.mask(made.mask(mask).astype(np.int8)), made.mask(mask))
    only = [int(part.argmax()) for part in allowed]
    assert _choices(space, made.value(np.array(only, np.float32))) == only


def _some_mask(space, random):
    """A mask as `sample` takes it, in which every factor has a choice."""
    if isinstance(space, spaces.Tuple):
        return tuple(None if random.random() < 0.2 else _some_mask(part, random) for part in space)
    if isinstance(space, spaces.MultiBinary):
        return random.integers(0, 3, space.shape).astype(np.int8)
    if isinstance(space, spaces.Discrete):
        return _row(space.n, random)
    if space.nvec.ndim == 2:
        return tuple(tuple(_row(n, random) for n in row) for row in space.nvec)
    return tuple(_row(n, random) for n in space.nvec)


def _row(n, random):
    row = random.integers(0, 2, n).astype(np.int8)
    row[random.integers(n)] = 1
    return row


def _choices(space, action):
    """The indices of an element of a space, factor by factor."""
    if isinstance(space, spaces.Tuple):
        return [index for part, own in zip(space, action, strict=True) for index in _choices(part, own)]
    if isinstance(space, spaces.MultiBinary):
        return action.ravel().astype(int).tolist()
    return np.ravel(action - space.start).tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int64])
@pytest.mark.parametrize("shape", [(), (3,), (1, 2)])
def test_vectors_are_within_the_bounds_of_each_component(dtype, shape):
    low = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    space = spaces.Box(low, low + dtype(3), dtype=dtype)
    made = converter("task", "agent", space)
    assert made.space == Box(low.size, low.ravel(), low.ravel() + 3)
    for value in (-1e9, 0.7, 1.0, 2.3, 1e9):
        action = made.value(np.full(low.size, value, np.float32))
        assert has(space, action)
    assert has(space, made.value(NINE[: low.size]))
    np.testing.assert_array_equal(made.value(NINE[: low.size]), space.high)


def test_integers_are_rounded():
    made = converter("task", "agent", spaces.Box(0, 9, (4,), np.int32))
    assert made.value(np.array([0.4, 0.6, 8.7, 2.5], np.float32)).tolist() == [0, 1, 9, 2]


def test_bounds_that_are_as_large_as_numbers_get_are_none():
    made = converter("task", "agent", spaces.Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (1,)))
    spec = TaskSpec("task", ("agent",), (1,), (made.space,))
    assert made.value(spec.task_units(np.array([2.5], np.float32))).tolist() == [2.5]


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Discrete(3, start=-1), Discrete(3)),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), MultiDiscrete((2, 3, 4, 5))),
        (spaces.MultiBinary((2, 1)), MultiDiscrete((2, 2))),
        (spaces.Tuple((spaces.Discrete(3), spaces.Tuple((spaces.MultiBinary(2),)))), MultiDiscrete((3, 2, 2))),
        (spaces.Tuple((spaces.Discrete(3),)), MultiDiscrete((3,))),
    ],
)
def test_discrete_spaces_become_factors(space, expected):
    assert converter("task", "agent", space).space == expected


@pytest.mark.parametrize(
    "space",
    [
        spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (1,)))),
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Text(3),
        spaces.Sequence(spaces.Discrete(2)),
    ],
)
def test_what_has_no_factors_is_named_in_one_line(space):
    with pytest.raises(ConfigError, match=r"task 'odd'.*agent 'p'.*expected Discrete, MultiDiscrete") as caught:
        converter("odd", "p", space)
    assert "\n" not in str(caught.value)
