"""Readers of files of one JSON object per line, which may have been cut off in a line, or edited by hand."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matrpo.consensus.message import LARGEST_NUMBER
from matrpo.errors import ConfigError

_LARGEST_INTEGER = 2**63 - 1
_OF_LINK = ("rejected", "states")
"""Metrics of a link that are mappings."""


class LineTail:
    """Follows a file of JSON objects as it grows (like `tail -f`): complete lines only, each once.

    A process that goes back to a checkpoint takes lines of its file back first. Those that it writes then are new ones.

    Args:
        path: the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def poll(self) -> list[dict[str, Any]]:
        """The lines completed since the last call. A damaged line is skipped."""
        try:
            with open(self.path, "rb") as file:
                file.seek(max(0, self._offset - 1))
                if self._offset and file.read(1) != b"\n":  # lines were taken back, and perhaps others written
                    file.seek(0)
                    self._offset = file.seek(file.read(self._offset).rfind(b"\n") + 1)
                data = file.read()
        except OSError:
            return []
        end = data.rfind(b"\n") + 1
        self._offset += end
        return [line for line in map(_parse_line, data[:end].splitlines()) if line is not None]


class MetricsTail(LineTail):
    """Follows a metrics file as it grows."""

    def take(self) -> list[dict[str, Any]]:
        """As `poll`, but checked: readers can rely on the type of whatever is there.

        Raises:
            ConfigError: a line has no number of an iteration, or something else where a number is wanted.
        """
        lines = self.poll()
        for line in lines:
            _check_metrics(self.path, line)
        return lines


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append a JSON object as a line of its own, even if the last line was cut off, and sync it.

    Raises:
        OSError: the file cannot be written.
    """
    with open(path, "ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        cut_off = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * cut_off + json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def check_whole(path: Path, line: Mapping[str, Any], key: str, smallest: int = 0) -> None:
    """Check that an object of a file has a whole number under a key.

    Raises:
        ConfigError: it has none, or it is too small or too large.
    """
    value = line.get(key)
    if type(value) is not int or not smallest <= value < LARGEST_NUMBER:
        raise _bad(path, value, key, f"a whole number from {smallest} on")


def check_number(path: Path, line: Mapping[str, Any], key: str) -> None:
    """Check that an object of a file has a finite number under a key.

    Raises:
        ConfigError: it has not.
    """
    if not _is_number(value := line.get(key)):
        raise _bad(path, value, key, "a finite number")


def _check_metrics(path: Path, line: Mapping[str, Any]) -> None:
    check_whole(path, line, "iteration", smallest=1)
    if "steps" in line:
        check_whole(path, line, "steps")
    if "time" in line:
        check_number(path, line, "time")
    links = line.get("links", {})
    if not isinstance(links, dict) or not all(map(str.isdecimal, links)):
        raise _bad(path, links, "links", "a mapping by neighbours' ids")
    for neighbour, link in links.items():
        if not isinstance(link, dict):
            raise _bad(path, link, neighbour, "a mapping")
        _check_values(path, link, _OF_LINK)
    if isinstance(value := line.get("team_return_mean"), dict):
        raise _bad(path, value, "team_return_mean", "a finite number or null")
    _check_values(path, {key: value for key, value in line.items() if key not in ("links", "share")})


def _check_values(path: Path, values: Mapping[str, Any], mappings: Iterable[str] | None = None) -> None:
    """Check that values are finite numbers or null, or mappings of such.

    Args:
        path: their file.
        values: by name.
        mappings: the names of mappings; None: any may be one.
    """
    for key, value in values.items():
        if isinstance(value, dict) if mappings is None else key in mappings:
            if not isinstance(value, dict):
                raise _bad(path, value, key, "a mapping")
            _check_values(path, value, ())
        elif value is not None and not _is_number(value) and not (key == "state" and isinstance(value, str)):
            raise _bad(path, value, key, "a finite number or null")


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return abs(value) <= _LARGEST_INTEGER
    return isinstance(value, float) and math.isfinite(value)


def _bad(path: Path, value: Any, key: str, expected: str) -> ConfigError:
    return ConfigError(f"{path} has a line with the bad value {value!r} for {key!r}: expected {expected}")


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None
