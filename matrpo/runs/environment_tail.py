"""Reader of the environment's metrics, merged over all environment servers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matrpo.envs.shards import join_lines
from matrpo.runs.process_directory import MetricsTail


class EnvironmentTail:
    """Follows the metrics files of all environment servers and merges them into one stream of lines.

    Args:
        paths: the files, in the order of the servers; they need not exist yet.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._tails = [MetricsTail(path) for path in paths]
        self._waiting: list[dict[int, dict[str, Any]]] = [{} for _ in paths]

    def poll(self) -> list[dict[str, Any]]:
        """The merged lines of iterations that have become complete, over all servers, since the last call."""
        for waiting, tail in zip(self._waiting, self._tails, strict=True):
            waiting.update((line["iteration"], line) for line in tail.poll())
        complete = sorted(set.intersection(*(set(waiting) for waiting in self._waiting)))
        return [join_lines([waiting.pop(iteration) for waiting in self._waiting]) for iteration in complete]
