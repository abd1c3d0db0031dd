"""The life cycle of every long-lived process of a run: process title, log, stop signals, exit status."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from setproctitle import setproctitle

from matrpo.errors import ConfigError, TaskError, lack_of_memory
from matrpo.launch.processes.temporary_folder import remove_if_dead
from matrpo.runs.process_directory import ProcessDirectory
from matrpo.runs.storage import StorageError, storing
from matrpo.standard_streams import drop_unwritable

EXIT_FAILED = 1
EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that stop a run: Ctrl-C, `kill` and batch systems, a terminal that is closed."""

READY = b"ready"
"""The environment server's message to the launcher: every agent has said hello."""

_CHUNK = 4096
_LAST_GRACE = 10.0
"""Grace period in seconds, from the end of standard input, to save the state and exit."""

_SET_SIGNAL_AT_PARENTS_DEATH = 1
_WATCH = 1.0
"""Seconds between two checks whether this process has been orphaned."""

_RELEASE = 0.2
"""Seconds in which a process that dies has closed all its files, once it has closed one."""

_LOG = logging.getLogger(__name__)


class StopRequested(BaseException):
    """Raised to make this process save its state and exit, at the request of the user or the launcher."""


class RunAborted(RuntimeError):  # noqa: N818
    """The run ends by its own rule for lost agents. The text is one line that says why."""


@dataclass(frozen=True)
class Supervision:
    """A child's connection to the launcher that supervises it.

    Attributes:
        report: takes `READY`, and the reason why a child fails.
        socket_directory: of the run, a `TemporaryFolder` of the launcher's.
        launched_at: when the launcher was started, in seconds of the system's wall clock.
    """

    report: Connection[bytes, bytes]
    socket_directory: Path
    launched_at: float


def run_supervised(title: str, directory: ProcessDirectory, supervision: Supervision, work: Callable[[], None]) -> None:
    """Run a child of the launcher to its end, which is the end of this process.

    The child writes to nothing but its log, leaves Ctrl-C to the launcher, stops at SIGTERM, and does not survive
    the launcher.
    """
    setproctitle(title)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent(supervision.socket_directory)
    try:
        log = _open_log(directory)
    except StorageError as error:
        supervision.report.send_bytes(str(error).encode())
        sys.exit(EXIT_FAILED)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    drop_unwritable("stdout", "stderr")
    faulthandler.enable(log)
    _log_to(log)
    status, reason = _run(work, signal.SIGTERM)
    if reason:
        supervision.report.send_bytes(reason.encode())
    sys.exit(status)


def run_alone(title: str, directory: ProcessDirectory, work: Callable[[], None], until_eof: bool = False) -> int:
    """Run a process that the user started: its log goes to standard error too, and all of `STOPS` stop it.

    Args:
        title: what `ps` shows.
        directory: the process's files.
        work: what to do.
        until_eof: the end of standard input stops it too.

    Returns:
        The exit status.

    Raises:
        ConfigError: a user's mistake; nothing else is raised.
        StorageError: the log cannot be written.
    """
    setproctitle(title)
    drop_unwritable("stdout")
    _log_to(_open_log(directory), sys.stderr)
    if until_eof:
        stop_at_end_of_input()
    return _run(work, *STOPS)[0]


def _run(work: Callable[[], None], *stops: signal.Signals) -> tuple[int, str]:
    """Run work that these signals stop; its exit status, and the reason if it failed."""
    try:
        stop_at(*stops)
        work()
    except StopRequested:
        ignore_stops()
        _LOG.info("stopped")
        return EXIT_INTERRUPTED, ""
    except (ConfigError, StorageError, TaskError, RunAborted) as error:
        _LOG.error("%s", error)
        return EXIT_MISTAKE if isinstance(error, ConfigError) else EXIT_FAILED, str(error)
    except Exception as error:
        if reason := lack_of_memory(error):
            _LOG.error("%s", reason)
        else:
            _LOG.exception("failed")
        return EXIT_FAILED, reason or f"{type(error).__name__}: {error}".splitlines()[0]
    finally:
        ignore_stops()
    _LOG.info("finished")
    return 0, ""


def stop_at(*signals: signal.Signals) -> None:
    """Raise `StopRequested` in the main thread at any of these signals, wherever it is, unless it is on its way."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        error = sys.exception()
        while error is not None:
            if isinstance(error, StopRequested):
                return
            error = error.__context__
        raise StopRequested

    handle_stops(stop, *signals)


def handle_stops(handler: Callable[[int, FrameType | None], Any], *signals: signal.Signals) -> None:
    """Set the handler of signals, also of those that were blocked when this process began; nohup's wish stands."""
    for number in signals:
        if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN):
            signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def stop_at_end_of_input(grace: float = _LAST_GRACE) -> None:
    """Stop this process by SIGTERM when its standard input ends; exit at once if it runs on beyond the grace period.

    Args:
        grace: in seconds.
    """

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, _CHUNK):  # not sys.stdin, whose lock would keep Python from ending
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os._exit(EXIT_FAILED)

    threading.Thread(target=watch, name="input watch", daemon=True).start()


def ignore_stops() -> None:
    """Ignore further `STOPS` while the state is saved."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


def signal_at_parents_death(number: signal.Signals) -> None:
    """Have the system send this process a signal when its parent dies; only Linux does."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_SET_SIGNAL_AT_PARENTS_DEATH, int(number))


def _end_with_parent(socket_directory: Path) -> None:
    """End this process as soon as its launcher is gone, or the warm parent, without which nobody sees its end."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    signal_at_parents_death(signal.SIGCONT)  # the thread below can do nothing while this process is stopped
    forked_from = os.getppid()

    def watch() -> None:
        gone: list[object] = []
        while not gone and os.getppid() == forked_from:
            gone = [*wait([parent.sentinel], timeout=_WATCH)]
        if gone or wait([parent.sentinel], timeout=_WATCH):
            time.sleep(_RELEASE)
            remove_if_dead(socket_directory)
        os._exit(EXIT_FAILED)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def _open_log(directory: ProcessDirectory) -> TextIO:
    with storing(directory.log_path):
        directory.path.mkdir(parents=True, exist_ok=True)
        return open(directory.log_path, "a", buffering=1)


def _log_to(*streams: TextIO) -> None:
    logging.raiseExceptions = False  # a full disk must not end the run through its log
    handlers = [logging.StreamHandler(stream) for stream in streams]
    logging.basicConfig(
        level=logging.INFO, handlers=handlers, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
