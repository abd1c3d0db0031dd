"""What a PettingZoo environment hands over for one agent: observations, masks, pixels, and what is no use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from matrpo.envs.conformance.check import Wrong
from matrpo.envs.wrapped.gymnasium_actions import converter
from matrpo.envs.wrapped.observations import ObservationReader, one_number
from matrpo.errors import ConfigError
from matrpo.spaces import Box, Discrete

PART = spaces.Box(-10, 10, (2,), np.float32)
MASK = spaces.Box(0, 1, (3,), np.int8)
PIXELS = spaces.Box(0, 255, (2, 2), np.uint8)


def reader(space: Any, actions: Any = Discrete(3)) -> ObservationReader:  # noqa: B008
    kinds = {Discrete: lambda own: spaces.Discrete(own.n), Box: lambda own: spaces.Box(-1.0, 1.0, (own.size,))}
    return ObservationReader("task", "scout", space, converter("task", "scout", kinds[type(actions)](actions)))


def leaves() -> st.SearchStrategy[Any]:
    return st.sampled_from(
        [
            spaces.Box(-3, 3, (2, 3), np.float32),
            spaces.Box(-3, 3, (), np.float64),
            spaces.Box(0, 9, (2,), np.int64),
            spaces.Box(0, 200, (3,), np.uint8),
            spaces.Discrete(4),
            spaces.Discrete(3, start=-1),
            spaces.MultiDiscrete([2, 3]),
            spaces.MultiDiscrete([[2, 3], [4, 2]]),
            spaces.MultiBinary((2, 2)),
            spaces.Text(4),
        ]
    )


def nested() -> st.SearchStrategy[Any]:
    def more(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        pairs = st.dictionaries(st.sampled_from("abc"), inner, min_size=1).map(spaces.Dict)
        return pairs | st.lists(inner, min_size=1, max_size=3).map(lambda parts: spaces.Tuple(parts))

    return st.recursive(leaves(), more, max_leaves=5)


@settings(max_examples=40)
@given(nested(), st.integers(0, 99))
def test_without_masks_and_pixels_it_is_gymnasium_s_flattening(space: Any, seed: int) -> None:
    space.seed(seed)
    value = space.sample()
    flat = reader(space).flat(value)
    assert flat.dtype == np.float32
    assert reader(space).size == len(flat) == spaces.flatdim(space)
    np.testing.assert_array_equal(flat, np.asarray(spaces.flatten(space, value), np.float32))


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (spaces.Dict({"observation": PART, "action_mask": MASK}), {"observation": [1, 2], "action_mask": [0, 1, 0]}),
        (spaces.Dict({"a": PART, "action_mask": MASK}), {"a": [1, 2], "action_mask": np.array([0.0, 1.0, 0.0])}),
        (
            spaces.Dict({"b": spaces.Dict({"action_mask": MASK}), "a": PART}),
            {"a": [1, 2], "b": {"action_mask": (False, True, False)}},
        ),
        (spaces.Tuple((PART, spaces.Dict({"action_mask": MASK}))), ([1, 2], {"action_mask": np.array([0, 1, 0])})),
    ],
)
def test_a_mask_is_taken_wherever_it_stands_and_the_rest_flattened(space: Any, value: Any) -> None:
    own = reader(space)
    assert own.masked
    assert own.size == 2
    assert own.flat(value).tolist() == [1.0, 2.0]
    mask = own.mask(value, {})
    assert mask is not None
    assert mask.dtype == np.bool_
    assert mask.tolist() == [False, True, False]


@pytest.mark.parametrize(
    "given_mask", [[0, 1, 1], (0, 1, 1), np.array([0, 2, 0.5]), np.array([[0], [1], [1]], np.int8), [[0], [1, 1]]]
)
@pytest.mark.parametrize("inner", [False, True])
def test_masks_of_any_kind_come_with_the_infos(given_mask: Any, inner: bool) -> None:
    info = {"action_mask": given_mask}
    mask = reader(PART).mask(None, {"x": 1, "more": info} if inner else info)
    assert mask is not None
    assert mask.tolist() == [False, True, True]
    assert reader(PART).mask(None, {"x": 1}) is None


@pytest.mark.parametrize(
    ("actions", "info", "words"),
    [
        (Discrete(3), {"action_mask": [1, 0, 1, 1]}, "the action mask of agent 'scout' is an array of shape (4,)"),
        (Discrete(3), {"action_mask": [1, np.nan, 1]}, "is nan in an entry; expected 0 or 1"),
        (Discrete(3), {"action_mask": ["a", "b", "c"]}, "expected numbers"),
        (Box(1, -1.0, 1.0), {"action_mask": [1]}, "expected none for actions of Box"),
        (Discrete(3), {"avail_actions": [1, 0, 1]}, "is called 'avail_actions'; expected the name 'action_mask'"),
    ],
)
def test_a_mask_that_does_not_fit_is_one_line(actions: Any, info: dict[str, Any], words: str) -> None:
    with pytest.raises(Wrong) as caught:
        reader(PART, actions).mask(None, info)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_looks_like_a_mask_has_to_be_called_one() -> None:
    with pytest.raises(
        ConfigError, match="'legal_moves' in the observations of agent 'scout' looks like an action mask"
    ):
        reader(spaces.Dict({"a": PART, "legal_moves": spaces.MultiBinary(3)}))
    assert reader(spaces.Dict({"a": PART, "legal_moves": spaces.MultiBinary(4)})).size == 6
    assert reader(PART).mask(None, {"legal_moves": [0, 2, 1], "mask": np.ones((3, 2))}) is None


def test_a_text_that_is_none_is_one_line() -> None:
    text = reader(spaces.Text(4))
    assert text.size == 4
    with pytest.raises(Wrong, match=r"^the observation of agent 'scout' is an array of shape \(2,\); expected"):
        text.flat(np.zeros(2))


def test_pixels_are_divided_by_255_and_nothing_else_is() -> None:
    picture = np.array([[0, 51], [102, 255]], np.uint8)
    whole = [0.0, 0.2, 0.4, 1.0]
    assert reader(PIXELS).flat(picture).tolist() == np.float32(whole).tolist()
    space = spaces.Dict({"camera": spaces.Tuple((PIXELS, PART)), "few": spaces.Box(0, 254, (1,), np.uint8)})
    flat = reader(space).flat({"camera": (picture, [3, 4]), "few": np.array([254], np.uint8)})
    assert flat.tolist() == np.float32([*whole, 3, 4, 254]).tolist()
    assert reader(spaces.Box(0, 255, (1,), np.int64)).flat([255]).tolist() == [255.0]


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (PART, np.zeros(1), "the observation of agent 'scout' is an array of shape (1,); expected 2 numbers"),
        (PART, np.zeros((2, 2)), "is an array of shape (2, 2); expected 2 numbers"),
        (PART, 1.0, "is an object of type float; expected 2 numbers"),
        (PART, None, "is None; expected numbers"),
        (PART, ["a", "b"], "is an object of type list; expected numbers"),
        (PART, np.array([None, 1.0]), "is an array of shape (2,) and type object; expected numbers"),
        (PART, [[1.0], [1.0, 2.0]], "is an object of type list; expected numbers"),
        (PART, np.array([1j, 2.0]), "complex128; expected numbers"),
        (spaces.Discrete(3), 3, "is [3]; expected whole numbers of 0 to 2"),
        (spaces.Discrete(3, start=1), 0, "is [0]; expected whole numbers of 1 to 3"),
        (spaces.MultiDiscrete([2, 3]), [1], "expected 2 numbers"),
        (spaces.MultiDiscrete([2, 3]), [1, 0.5], "expected whole numbers of 0 to 1, 0 to 2"),
        (spaces.Dict({"a": PART}), {"b": [1, 2]}, "is without 'a'"),
        (spaces.Dict({"a": PART, "b": PART}), {"a": [1], "b": [1, 2, 3]}, "agent 'scout'['a'] is an object of type"),
        (spaces.Dict({"a": PART, "action_mask": MASK}), None, "is without 'a': None"),
    ],
)
def test_an_observation_that_does_not_fit_is_one_line(space: Any, value: Any, words: str) -> None:
    with pytest.raises(Wrong) as caught:
        reader(space).flat(value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.array(2), np.array([2.0]), np.array([[2]]), [2]])
def test_a_reward_may_be_an_array_of_one_number(value: Any) -> None:
    assert one_number(value, "the reward") == 2.0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array([1.0, 2.0]), "the reward is an array of shape (2,); expected a number"),
        (None, "the reward is None; expected numbers"),
        ("much", "the reward is an object of type str; expected numbers"),
        ([], "expected a number"),
    ],
)
def test_any_other_reward_is_one_line(value: Any, words: str) -> None:
    with pytest.raises(Wrong) as caught:
        one_number(value, "the reward")
    assert words in str(caught.value)
