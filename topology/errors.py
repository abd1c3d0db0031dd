"""The error of an invalid graph."""

from __future__ import annotations


class TopologyError(ValueError):
    """An invalid graph or graph file: its text is one line that says what is wrong and what would work."""
