"""A worker of the queue: a process that has matrpo imported, and forks children for the commands of runs.

Importing torch and the rest takes longer than a short run; this way it happens once for each worker. Every long run
has a process of its own, so that it can fail, be stopped or run out of memory by itself; its commands share what that
process imports and compiles for its task. Short runs of one task share it, too, until one of them fails.
"""

from __future__ import annotations

import contextlib
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

    def start(self, log: Path, *commands: Sequence[str], shared: str | None = None) -> None:
        """Run commands of `matrpo`, one after another until one fails.

        Args:
            log: their output is appended to this file.
            commands: arguments of each.
            shared: they take the child that ran the commands before them, if these were given the same word; None: they
                have one of their own.
        """
        self._worker.send((log, commands, shared))
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
            with contextlib.suppress(ProcessLookupError):
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
    child = None
    while True:
        try:
            log, commands, shared = queue.recv()
        except EOFError:
            break
        if child is not None and (child.shared != shared or child.has_ended):
            child.close()
            child = None
        child = child or _Child(queue, shared)
        queue.send(child.pid)
        status = child.run(log, commands)
        if status or shared is None:
            status = child.close()
            child = None
        queue.send(status)
    if child is not None:
        child.close()


class _Child:
    """A forked process that runs the commands of a run, or of several, one after another.

    Args:
        queue: the worker's own pipe, which the child closes.
        shared: which runs it is for.
    """

    def __init__(self, queue: Connection, shared: str | None) -> None:
        self.shared = shared
        self._status: int | None = None
        self._runs, remote = multiprocessing.Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            queue.close()
            self._runs.close()
            _run_each(remote)
        remote.close()

    @property
    def has_ended(self) -> bool:
        """Whether it has ended while it had nothing to do, as when it is killed: then its pipe is at its end."""
        return self._runs.poll()

    def run(self, log: Path, commands: Sequence[Sequence[str]]) -> int:
        """Run commands; the exit status of the last, or -N if signal N ended the process."""
        try:
            self._runs.send((log, commands))
            status: int = self._runs.recv()
        except (EOFError, OSError):
            status = self.close()
        return status

    def close(self) -> int:
        """Let it end, if it has not; its exit status."""
        self._runs.close()
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status


def _run_each(runs: Connection) -> NoReturn:
    """Run commands as they come, until there are none left or one fails."""
    signal_at_parents_death(signal.SIGTERM)
    while True:
        try:
            log, commands = runs.recv()
        except EOFError:
            sys.exit(0)
        status = _run(log, commands)
        runs.send(status)
        if status:
            sys.exit(status)


def _run(log: Path, commands: Sequence[Sequence[str]]) -> int:
    """Run the commands in this process, with its output in the log; the exit status of the last."""
    from matrpo.launch.cli import main

    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    for arguments in commands:
        sys.argv = ["matrpo", *arguments]
        try:
            main()
        except SystemExit as end:
            if end.code:
                return end.code if isinstance(end.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    return 0
