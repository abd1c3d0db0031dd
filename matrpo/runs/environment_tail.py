"""Reader of the environment's metrics, merged over all environment servers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matrpo.envs.shards import join_lines
from matrpo.errors import ConfigError
from matrpo.runs.json_lines import MetricsTail


class EnvironmentTail:
    """Follows the metrics files of all environment servers and merges them into one stream of lines.

    Args:
        paths: the files, in the order of the servers; they need not exist yet.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._tails = [MetricsTail(path) for path in paths]
        self._waiting: list[dict[int, dict[str, Any]]] = [{} for _ in paths]

    def poll(self) -> list[dict[str, Any]]:
        """The merged lines of iterations that have become complete, over all servers, since the last call.

        Raises:
            ConfigError: somebody has put something else where a number is wanted.
        """
        for waiting, tail in zip(self._waiting, self._tails, strict=True):
            waiting.update((line["iteration"], line) for line in tail.take())
        complete = sorted(set.intersection(*(set(waiting) for waiting in self._waiting)))
        return [self._join([waiting.pop(iteration) for waiting in self._waiting]) for iteration in complete]

    def _join(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        try:
            return join_lines(lines)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            files, iteration = ", ".join(str(tail.path) for tail in self._tails), lines[0]["iteration"]
            raise ConfigError(f"the lines of iteration {iteration} in {files} do not fit together") from None
