"""`matrpo launch --cluster FILE --ssh`: starts every process of a cluster over ssh, and shows their output.

A remote process ends when its standard input does, and that is the ssh connection: whatever becomes of this launcher,
none is left behind.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matrpo.launch.cluster.cluster_file import FILE_NAME, Cluster, host_of
from matrpo.launch.processes.interrupts import Interrupts
from matrpo.launch.processes.process import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_MISTAKE
from matrpo.runs.process_id import ProcessId

_POLL = 0.1
_GRACE = 10.0
"""Grace period of remote processes to save their state, in seconds."""

_SSH_FAILED = 255


@dataclass(frozen=True)
class Site:
    """The ssh command, and the paths of the run directory and of matrpo on every machine.

    Attributes:
        ssh: the ssh program and its options.
        user: `NAME@`, or nothing.
        directory: the run directory on every machine.
        matrpo: the matrpo program on every machine.
    """

    ssh: Sequence[str]
    user: str
    directory: Path
    matrpo: str

    def command(self, host: str, *arguments: str) -> list[str]:
        """The local command that runs `matrpo ARGUMENTS` in the run directory on a host."""
        remote = shlex.join([self.matrpo, *arguments, "--until-eof"])
        return [*self.ssh, f"{self.user}{host}", f"cd {shlex.quote(str(self.directory))} && exec {remote}"]


@dataclass
class _Remote:
    name: str
    host: str
    process: subprocess.Popen[str]
    reader: threading.Thread = field(init=False)
    last_line: str = ""

    def follow(self, say: Callable[[str], None]) -> None:
        """Forward the process's output line by line, from a thread."""

        def read() -> None:
            assert self.process.stdout is not None
            for line in self.process.stdout:
                self.last_line = line.rstrip() or self.last_line
                say(f"{self.name} on {self.host} | {line.rstrip()}")

        self.reader = threading.Thread(target=read, name=self.name, daemon=True)
        self.reader.start()


class RemoteRun:
    """Supervisor of all processes of a cluster, each started over an ssh connection of its own.

    Args:
        cluster: where they are.
        site: how to reach them.
        say: shows the user one line; threads call it too.
    """

    def __init__(self, cluster: Cluster, site: Site, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._site = site
        self._say = say
        self._remotes: list[_Remote] = []

    def run(self) -> int:
        """Start all and stay until the last has ended; the exit status of the launcher."""
        with Interrupts().counted() as interrupts:
            try:
                for process in self._cluster.processes:
                    if not interrupts.count:
                        self._start(process)
                while not interrupts.count:
                    codes = [remote.process.poll() for remote in self._remotes]
                    if any(codes):
                        return self._fail()
                    if all(code == 0 for code in codes):
                        return 0
                    time.sleep(_POLL)
                self._say("stopping all")
                return EXIT_INTERRUPTED
            finally:
                self._stop()

    def _start(self, started: ProcessId) -> None:
        host = host_of(self._cluster.endpoints[started])
        insecure = ["--insecure"] if self._cluster.insecure else []
        command = self._site.command(host, *started.arguments, "--cluster", FILE_NAME, *insecure)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is the launcher's business
        )
        remote = _Remote(started.name, host, process)
        remote.follow(self._say)
        self._remotes.append(remote)

    def _stop(self) -> None:
        """Close all standard inputs, which ends the remote processes; kill the ssh connections that remain."""
        for remote in self._remotes:
            assert remote.process.stdin is not None
            with contextlib.suppress(OSError):
                remote.process.stdin.close()
        deadline = time.monotonic() + _GRACE
        for remote in self._remotes:
            try:
                remote.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                remote.process.kill()
                remote.process.wait()
            remote.reader.join(1.0)

    def _fail(self) -> int:
        """Report the process that failed; the exit status."""
        culprit = next(remote for remote in self._remotes if remote.process.returncode)
        culprit.reader.join(1.0)
        code, where = culprit.process.returncode, f"{culprit.name} on {culprit.host}"
        if code == _SSH_FAILED:
            self._say(f"matrpo: error: cannot start {where} over ssh: {culprit.last_line or 'no reason was given'}")
            return EXIT_MISTAKE
        self._say(f"matrpo: error: {where} failed with status {code}: {culprit.last_line}")
        return EXIT_MISTAKE if code == EXIT_MISTAKE else EXIT_FAILED
