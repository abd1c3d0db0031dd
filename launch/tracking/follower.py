"""Follows the metrics files of a run, and hands a tracker what is new."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matrpo.launch.tracking.ledger import Ledger
from matrpo.launch.tracking.tracker import Point, Tracker
from matrpo.runs.json_lines import MetricsTail
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_directory import RunDirectory
from matrpo.runs.scalars import scalars

_COORDINATES = ("iteration", "steps", "time")
"""What says where a point is."""


class Follower:
    """Sends a tracker the points that the metrics files of a run have beyond those that it has already.

    So no step comes twice: of iterations that a resumed run repeats, the tracker keeps what it was sent at first, which
    is the same to the bit wherever the task's state can be saved, times apart.

    Args:
        run: the run directory; files of processes that run on other machines may be missing.
        tracker: takes the points.
        ledger: says how far it has come.
    """

    def __init__(self, run: RunDirectory, tracker: Tracker, ledger: Ledger) -> None:
        self._tracker = tracker
        self._ledger = ledger
        self._samples = run.config.samples
        self._last = run.config.iterations * run.config.samples
        self._feeds = {process: _Feed(directory.metrics_path) for process, directory in run.processes().items()}

    @property
    def whole(self) -> bool:
        """Whether the tracker has the last iteration of each process that there are files of."""
        return bool(self._ledger.sent) and min(self._ledger.sent.values()) >= self._last

    def poll(self) -> None:
        """Send what has been written since the last call.

        Raises:
            ConfigError: a metrics file was damaged.
            StorageError: the ledger cannot be written.
        """
        for process, feed in self._feeds.items():
            points = [point for line in feed.take() if (point := self._point(line)).steps > self._ledger.last(process)]
            if points:
                self._send(process, points)

    def _send(self, process: ProcessId, points: list[Point]) -> None:
        self._tracker.add(process, points)
        self._ledger.note(process, points[-1].steps)
        self._ledger.save()

    def _point(self, line: Mapping[str, Any]) -> Point:
        values = scalars({name: value for name, value in line.items() if name not in _COORDINATES})
        return Point(line.get("steps", line["iteration"] * self._samples), line.get("time", 0.0), values)


class _Feed:
    """The lines of a metrics file as they come; all of them again if it was replaced by a shorter one meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tail = MetricsTail(path)
        self._file: tuple[int, int] = (0, 0)

    def take(self) -> list[dict[str, Any]]:
        try:
            found = os.stat(self._path)
        except OSError:
            return []
        number, size = self._file
        if found.st_ino != number or found.st_size < size:
            self._tail = MetricsTail(self._path)
        elif found.st_size == size:
            return []
        self._file = found.st_ino, found.st_size
        return self._tail.take()
