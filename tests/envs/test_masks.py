import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from matrpo.envs.masks import factors, mask_size, of_the_present, playable
from matrpo.spaces import Box, Discrete, MultiDiscrete


@settings(max_examples=25)
@given(arrays.arrays(bool, st.integers(1, 5).map(lambda b: (b, 3))))
def test_where_nothing_is_allowed_choice_0_stands_for_doing_nothing(mask: np.ndarray) -> None:
    before = mask.copy()
    filled = playable(mask, Discrete(3))
    assert filled is not None
    np.testing.assert_array_equal(mask, before)
    for row, own in zip(filled, mask, strict=True):
        assert row.tolist() == (own.tolist() if own.any() else [True, False, False])


def test_only_discrete_actions_have_masks() -> None:
    assert factors(Discrete(4)) == (4,)
    assert mask_size(Box(2, -1.0, 1.0)) == 0
    assert playable(None, Discrete(4)) is None


def test_who_is_not_there_is_allowed_nothing() -> None:
    present = np.array([True, False, True])
    mask = np.array([[True, False], [True, True], [False, True]])
    np.testing.assert_array_equal(of_the_present(mask, Discrete(2), present), [[1, 0], [0, 0], [0, 1]])
    np.testing.assert_array_equal(of_the_present(None, MultiDiscrete((2, 3)), present), [[1] * 5, [0] * 5, [1] * 5])
    assert of_the_present(mask, Discrete(2), np.ones(3, bool)) is mask
    assert of_the_present(None, Box(2, -1.0, 1.0), present) is None
