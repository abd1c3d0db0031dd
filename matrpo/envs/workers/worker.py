"""Worker processes that step a share of an environment's copies, and the parent's handle of each, over pipes.

The parent writes an order, one letter and an array of known size; the worker answers `k` and an array of known size, or
`e`, a length and one line of text. A worker ends when its input ends: the death of its parent is enough.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import IO

import numpy as np

from matrpo.errors import ConfigError, TaskError, in_words
from matrpo.standard_streams import drop_unwritable

Orders = dict[bytes, tuple[np.ndarray | None, Callable[[], np.ndarray | None]]]
"""For each letter of an order, the array that its content is read into, or None, and what then computes the answer."""

DEADLINE = 300.0
"""Timeout in seconds of an answer: a worker that is silent for longer is taken to hang."""

_PATIENCE = 5.0
"""Timeout in seconds for a worker to end when asked to."""


class Worker:
    """The parent's handle of a worker process.

    Args:
        label: what errors call it.
        module: run as `python -P -m module`, so that no file of the working directory is imported; its main is `serve`.
        arguments: on its command line.
        memory: file descriptors that it inherits.
        deadline: timeout in seconds of each of its answers.
    """

    def __init__(
        self, label: str, module: str, arguments: list[str], memory: tuple[int, ...] = (), deadline: float = DEADLINE
    ) -> None:
        self._label = label
        self._deadline = deadline
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=memory,
        )

    def send(self, order: bytes, content: np.ndarray | None = None) -> None:
        """Send an order to the worker; `receive` reads its answer.

        Raises:
            RuntimeError: the worker is gone.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(order)
            if content is not None:
                self._process.stdin.write(np.ascontiguousarray(content).data)
            self._process.stdin.flush()
        except OSError:
            # A worker that failed has said why before it ended.
            self.receive(np.empty(0))
            raise RuntimeError(f"{self._label} takes no orders") from None

    def receive(self, answer: np.ndarray) -> None:
        """Wait for the answer to the oldest order and read it into `answer`, a C-contiguous array of its size.

        Raises:
            RuntimeError: the worker failed, with its reason, is gone, or is silent. The text is one line.
        """
        stream = self._process.stdout
        assert stream is not None
        answers = select.poll()
        answers.register(stream, select.POLLIN)
        if not answers.poll(1000 * self._deadline):
            self._process.kill()
            raise RuntimeError(f"{self._label} hangs: no answer in {self._deadline:g} s")
        status = stream.read(1)
        if status == b"e":
            size = int.from_bytes(stream.read(4), "little")
            raise RuntimeError(f"{self._label} failed: {stream.read(size).decode()}")
        if status != b"k" or (answer.size and not _read_into(stream, answer)):
            raise RuntimeError(f"{self._label} is gone (exit status {self._process.wait(_PATIENCE)})")

    def close(self) -> None:
        """End the process; calling it twice is harmless."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(build: Callable[[], Orders]) -> None:
    """The main loop of a worker: execute orders until the input ends.

    Args:
        build: makes the table of orders. That it was built is answered as if it were an order.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # what stops a run is the parent's business
        signal.signal(number, signal.SIG_IGN)
    orders, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # What a library prints must not reach the parent as an answer.
    os.dup2(2, 1)
    drop_unwritable("stdout", "stderr")
    try:
        table = build()
        _answer(answers, None)
        while letter := orders.read(1):
            content, act = table[letter]
            if content is not None and not _read_into(orders, content):
                return
            _answer(answers, act())
    except BrokenPipeError:
        os._exit(1)
    except Exception as error:
        known = isinstance(error, ConfigError | TaskError)
        text = (str(error) if known else in_words(error)).encode()
        answers.write(b"e" + len(text).to_bytes(4, "little") + text)
        answers.flush()


def _answer(stream: IO[bytes], array: np.ndarray | None) -> None:
    stream.write(b"k")
    if array is not None:
        stream.write(np.ascontiguousarray(array).data)
    stream.flush()


def _read_into(stream: IO[bytes], array: np.ndarray) -> bool:
    """Fill an array from a stream; false if the stream ended before."""
    return stream.readinto(array.view(np.uint8)) == array.nbytes  # type: ignore[attr-defined, no-any-return]
