"""A process's heartbeat: the file `beat` in its folder, whose age says how long its main loop has not turned."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass

from matrpo.errors import ConfigError
from matrpo.runs.process_directory import ProcessDirectory
from matrpo.runs.storage import replaced_when_complete

_FILE_NAME = "beat"
_EVERY = 1.0
"""Seconds between two heartbeats."""


@dataclass(frozen=True)
class LastHeartbeat:
    """The content of a heartbeat.

    Attributes:
        iteration: the iteration that the process is in; 0 until it takes part.
        age: seconds since.
    """

    iteration: int
    age: float


class Heartbeat:
    """Writes the heartbeats of one process. Write errors are ignored: a heartbeat must not end the process.

    Args:
        directory: the process's files.
    """

    def __init__(self, directory: ProcessDirectory) -> None:
        self._path = directory.path / _FILE_NAME
        self._iteration = -1
        self._next = 0.0

    def __call__(self, iteration: int) -> None:
        """Write a heartbeat if one is due; call it from the main loop, as often as you like.

        Args:
            iteration: where it is; 0 until it takes part.
        """
        now = time.monotonic()
        if now < self._next and iteration == self._iteration:
            return
        self._next = now + _EVERY
        with contextlib.suppress(OSError):
            if iteration == self._iteration:
                os.utime(self._path)
            else:
                with replaced_when_complete(self._path) as draft:
                    draft.write_text(json.dumps({"iteration": iteration}))
                self._iteration = iteration


def read_heartbeat(directory: ProcessDirectory) -> LastHeartbeat:
    """The last heartbeat of a process.

    Raises:
        ConfigError: there is none.
    """
    path = directory.path / _FILE_NAME
    try:
        age = max(0.0, time.time() - path.stat().st_mtime)
        return LastHeartbeat(int(json.loads(path.read_bytes())["iteration"]), age)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}: has the process begun?") from None
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise ConfigError(f"{path} is damaged: it must hold the number of an iteration") from None
