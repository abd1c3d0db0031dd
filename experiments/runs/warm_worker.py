"""A worker of the queue: a process that has matrpo imported, and forks a child for the commands of each run.

Importing torch and the rest takes longer than a short run; this way it happens once for each worker. Every run still
has a process of its own, so that it can fail, be stopped or run out of memory by itself; its commands share what that
process imports and compiles for its task.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from matrpo.envs.particle import kernels
from matrpo.launch.processes.process import signal_at_parents_death

_IMPORTED = (
    "matrpo.build",
    "matrpo.evaluation",
    "matrpo.launch.cli",
    "matrpo.launch.commands.launch",
    "matrpo.launch.commands.read",
    "matrpo.launch.processes.supervisor",
    "matrpo.launch.screen.screen",
    "matrpo.training",
)
"""What `matrpo launch` and `matrpo eval` import before they know the task."""

_GRACE = 10.0
"""Grace period of a child to save its state when it is stopped, in seconds."""


class WarmWorker:
    """A worker as the queue sees it: has one child at a time, until it is closed."""

    def __init__(self) -> None:
        self._child: int | None = None
        self._begin()

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._worker, remote = context.Pipe()
        self._process = context.Process(target=_serve, args=(remote,), name="matrpo worker")
        self._process.start()
        remote.close()

    def start(self, log: Path, *commands: Sequence[str]) -> None:
        """Run commands of `matrpo`, one after another until one fails; their output is appended to the file `log`."""
        self._worker.send((log, commands))
        self._child = self._worker.recv()

    def poll(self, timeout: float | None = 0.0) -> int | None:
        """The exit status of the last command, -N if signal N ended it or the worker; None while the child runs.

        Args:
            timeout: seconds to wait for its end; None waits for ever.
        """
        if not self._worker.poll(timeout):
            return None
        self._child = None
        try:
            status: int = self._worker.recv()
        except EOFError:
            self._process.join()
            status = self._process.exitcode or 1
            self._begin()
        return status

    def close(self) -> None:
        """End the worker; a child that still runs is asked to save its state first."""
        if (child := self._child) is not None:
            os.kill(child, signal.SIGTERM)
            if self.poll(_GRACE) is None:
                os.kill(child, signal.SIGKILL)
        self._worker.close()
        self._process.join()


def _serve(queue: Connection) -> None:
    """Run what comes from the queue, and answer it with the child's process id, then its exit status."""
    os.setsid()  # an interrupt in the terminal is the queue's to handle
    signal_at_parents_death(signal.SIGTERM)
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
    for module in _IMPORTED:
        import_module(module)
    kernels.load("world")
    gc.collect()
    gc.freeze()  # a collection in a child would write to every object made here, and so copy the memory that all share
    while True:
        try:
            log, commands = queue.recv()
        except EOFError:
            return
        child = os.fork()
        if child == 0:
            queue.close()
            _run(log, commands)
        queue.send(child)
        queue.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _run(log: Path, commands: Sequence[Sequence[str]]) -> NoReturn:
    """Run the commands in this process: their output goes to the log, its end is that of the last."""
    from matrpo.launch.cli import main

    signal_at_parents_death(signal.SIGTERM)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (1, 2):
        os.dup2(output, stream)
    for arguments in commands:
        sys.argv = ["matrpo", *arguments]
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise
    sys.exit(0)
