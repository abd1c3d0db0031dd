"""The process that follows a run for its tracker, as the launcher has it: `matrpo track`, until the launcher is gone.

Neither the agents nor their servers know of it, and whatever becomes of it, the run goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

from matrpo.runs.run_directory import RunDirectory
from matrpo.runs.storage import storing

GRACE = 60.0
"""Seconds in which the tracker takes what is left at the end of a run; then its process is ended."""

_ERROR = "matrpo: error: "
_PATIENCE = 2.0
"""Seconds after which the user is told what is waited for."""


@contextlib.contextmanager
def followed(run: RunDirectory, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Follow the run for its tracker, if its settings name one, inside the block; yields what looks after that.

    Args:
        run: the run directory.
        say: shows the user one line.

    Raises:
        StorageError: the log of the process cannot be written.
    """
    if run.config.tracker == "none":
        yield lambda: None
        return
    child = TrackerChild(run, say)
    try:
        yield child.look
    finally:
        try:
            child.finish()
        finally:
            child.kill()


class TrackerChild:
    """The process that follows a run; arguments as of `followed`."""

    def __init__(self, run: RunDirectory, say: Callable[[str], None]) -> None:
        self._name = run.config.tracker
        self._path = run.path
        self._say = say
        self._told = False
        self._log = run.path / "tracker" / "log.txt"
        with storing(self._log):
            self._log.parent.mkdir(parents=True, exist_ok=True)
            log = open(self._log, "ab")  # noqa: SIM115
        with log:
            # A session of its own: Ctrl-C is for the launcher, which ends it last.
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "matrpo.launch.cli", "track", str(run.path), "--until-eof"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def look(self) -> None:
        """Tell the user, once, if it has failed."""
        if self.process.poll() and not self._told:
            self._told = True
            self._say(
                f"--tracker {self._name} failed ({self._reason()}); the run goes on without it, and `matrpo track "
                f"{self._path}` sends what is missing"
            )

    def finish(self) -> None:
        """Have it send what is left, and end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._say(f"waiting for {self._name} to take the last metrics")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE)
        self.look()

    def kill(self) -> None:
        """End it at once, and whatever it has started, unless it has ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _reason(self) -> str:
        """Why it has failed: the last thing that it said of that, or how it ended."""
        try:
            said = [line for line in self._log.read_text(errors="replace").splitlines() if line.startswith(_ERROR)]
        except OSError:
            said = []
        status = self.process.returncode
        ended = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return said[-1].removeprefix(_ERROR) if said and status > 0 else ended
