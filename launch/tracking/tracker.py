"""What a tracker is given of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from matrpo.runs.process_id import ProcessId


class Point(NamedTuple):
    """The metrics of one process in one iteration.

    Attributes:
        steps: environment steps until then: where the point is on the axis.
        time: when it was measured, in seconds of the system's wall clock.
        values: numbers by tag.
    """

    steps: int
    time: float
    values: dict[str, float]


class Tracker(ABC):
    """Takes the settings and the curves of a run, a group of curves for each process."""

    @abstractmethod
    def add(self, process: ProcessId, points: Sequence[Point]) -> None:
        """Continue the curves of a process.

        Args:
            process: which.
            points: their steps grow, also from one call to the next.
        """

    @abstractmethod
    def close(self, whole: bool) -> None:
        """End the curves, having sent what there is.

        Args:
            whole: the run has done all its iterations.
        """
