"""The one exception of this package."""

from __future__ import annotations


class TopologyError(ValueError):
    """A graph that cannot be: its text is one line that says what is wrong and what would work."""
