"""The warm parent as the launcher sees it: multiprocessing's fork server, which forks the processes of a run."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.launch.processes.children import run_child
from matrpo.launch.processes.interrupts import deadline
from matrpo.launch.processes.process import STOPS, Supervision
from matrpo.runs.process_id import ProcessId

_MODULE = "matrpo.launch.warm_parent"

_TO_WARM_UP = 120.0
"""Timeout of the first child, in seconds: everything is imported before."""

_TO_FORK = 10.0
"""Timeout of every other child, in seconds."""


class Born(NamedTuple):
    """A process, and the pipe that tells of it."""

    process: multiprocessing.process.BaseProcess
    report: Connection[bytes, bytes]


class WarmParent:
    """Starts the warm parent, forks children from it, and wakes it if it was stopped.

    Args:
        folder: of sockets; the warm parent's own is put there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._warm = False
        # Else multiprocessing makes a folder of its own, in a path that may be too long, and left behind at a kill.
        multiprocessing.current_process()._config["tempdir"] = str(folder)  # type: ignore[attr-defined]
        multiprocessing.get_context("forkserver").set_forkserver_preload([_MODULE])
        self._id = _start()

    def start(self, who: ProcessId, cluster: Cluster, launched_at: float) -> Born:
        """Fork a process of the run.

        Args:
            who: which.
            cluster: where all processes are.
            launched_at: as in `Supervision`.

        Raises:
            StartError: the warm parent does not answer. The text is one line.
        """
        context = multiprocessing.get_context("forkserver")
        report, remote = context.Pipe(duplex=False)
        supervision = Supervision(remote, self._folder, launched_at)
        process = context.Process(target=run_child, args=(who, cluster, supervision), name=who.name)
        before, self._id = self._id, _start()
        seconds = _TO_FORK if self._warm and self._id == before else _TO_WARM_UP
        try:
            with deadline(seconds):
                process.start()
        except TimeoutError:
            report.close()
            raise StartError(
                f"{who.name} was not started in {seconds:.0f} s: process {self._id}, `matrpo warm parent`, is silent"
            ) from None
        finally:
            remote.close()
        self._warm = True
        return Born(process, report)

    def wake(self) -> bool:
        """Let the warm parent go on; whether it had been stopped since the last call, where the system tells that."""
        stopped = None
        if hasattr(os, "waitid"):
            with contextlib.suppress(ChildProcessError):
                stopped = os.waitid(os.P_PID, self._id, os.WSTOPPED | os.WNOHANG)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._id, signal.SIGCONT)
        return stopped is not None

    def kill(self) -> None:
        """End it: for the launcher, all its children have ended then."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._id, signal.SIGKILL)


def _start() -> int:
    """Start the warm parent unless it runs; its process id."""
    resource_tracker.ensure_running()  # here, since it ends by unblocking SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # from the first instruction on, until it ignores them
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    number: int = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    return number


class StartError(RuntimeError):
    """A process of the run could not be started. The text is one line."""
