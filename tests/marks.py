"""Marks of single cases of a test."""

from typing import Any

import pytest


def slow(*case: Any) -> Any:
    """A case of a parametrized test that only `pytest -m slow` runs: a variant of those that always run."""
    return pytest.param(*case, marks=pytest.mark.slow)
