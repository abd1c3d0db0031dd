"""A link of two agents, for the tests of its state machine."""

from __future__ import annotations

import pytest
from two_ends import End


@pytest.fixture
def ends() -> tuple[End, End]:
    """Both ends, with the first iteration begun."""
    pair = End(0), End(1)
    for end in pair:
        end.begin()
    return pair
