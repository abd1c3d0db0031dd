"""Standard output and standard error that drop what cannot be written: no work depends on whether somebody reads it.

A terminal may be closed, a disk full, the reader of a pipe gone; a reader may stop (`| less`, Ctrl-S).
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Callable
from typing import Any, Literal

_PATIENCE = 2.0
"""Timeout in seconds for a stream to take more; what it does not take is dropped."""


def drop_unwritable(*names: Literal["stdout", "stderr"], on_broken_pipe: Callable[[], None] | None = None) -> None:
    """Replace standard streams of `sys` by ones to which writing neither fails nor waits for longer than 2 s.

    A stream without a file descriptor of its own, as in a notebook, stays as it is.

    Args:
        names: which.
        on_broken_pipe: called at each write to a pipe that nobody reads any more.
    """
    for name in names:
        stream = getattr(sys, name)
        if stream is None:  # Python's sign of a descriptor that was closed
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
            continue
        with contextlib.suppress(OSError):  # it has no descriptor
            raw = _Dropping(_descriptor(stream.fileno()), on_broken_pipe)
            stream.flush()
            text = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=True)
            setattr(sys, name, text)


def _descriptor(shared: int) -> int:
    """One to write to: a terminal's that never waits, which others that have it open would notice in the shared one."""
    with contextlib.suppress(OSError):
        return os.open(os.ttyname(shared), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return shared


class _Dropping(io.FileIO):
    """A file descriptor that takes everything, and drops what cannot be written."""

    def __init__(self, descriptor: int, on_broken_pipe: Callable[[], None] | None) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._on_broken_pipe = on_broken_pipe
        self._patience = _PATIENCE

    def write(self, data: Any, /) -> int:
        """Write the first bytes; returns the number of those that are written or dropped."""
        view = memoryview(data).cast("B")
        try:
            if select.select([], [self], [], self._patience)[1]:
                self._patience = _PATIENCE
                return super().write(view[: select.PIPE_BUF]) or len(view)
            self._patience = 0.0  # until it takes more
        except BrokenPipeError:
            if self._on_broken_pipe:
                self._on_broken_pipe()
        except OSError:
            pass
        return len(view)
