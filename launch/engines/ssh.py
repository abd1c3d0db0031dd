"""`matrpo launch --cluster FILE --ssh`: starts every process of a cluster over ssh, and shows their output.

A remote process ends when its standard input does, and that is the ssh connection: whatever becomes of this launcher,
none is left behind.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matrpo.launch.cluster.cluster_file import FILE_NAME, Cluster, host_of
from matrpo.launch.processes.interrupts import Interrupts
from matrpo.launch.processes.process import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_MISTAKE
from matrpo.launch.processes.restarts import BackOff, Restarts, goes_on_without
from matrpo.runs.process_id import ProcessId

_POLL = 0.1
_GRACE = 10.0
"""Grace period of remote processes to save their state, in seconds."""

_STRAGGLERS = 60.0
"""Timeout for agents to end by themselves once all environment servers have, in seconds."""

_SSH_FAILED = 255
"""Exit status of ssh where there is no connection (any more), or a signal has killed the remote process."""

_LOGGED = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ [A-Z]+ ")
"""The beginning of a line that a process has logged."""


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
    """A remote process, over all its restarts.

    Attributes:
        id: which process.
        host: its machine.
        process: the ssh connection of its present life.
        reader: the thread that shows its output.
        last_line: the last line of that.
        has_begun: it has logged a line in any of its lives.
        back_off: says when it may be started again.
        start_at: when it will be, by the monotonic clock; None if it is not waited for.
        left_out: the others go on without it.
    """

    id: ProcessId
    host: str
    process: subprocess.Popen[str]
    reader: threading.Thread = field(init=False)
    last_line: str = ""
    has_begun: bool = False
    back_off: BackOff = field(default_factory=BackOff)
    start_at: float | None = None
    left_out: bool = False

    @property
    def where(self) -> str:
        """Which process on which machine, in messages to the user."""
        return f"{self.id.name} on {self.host}"

    @property
    def code(self) -> int | None:
        """Its exit status, negative if a signal has killed it, or the connection is lost; None while it runs."""
        code = self.process.poll()
        return -signal.SIGKILL if code == _SSH_FAILED and self.has_begun else code

    def follow(self, say: Callable[[str], None]) -> None:
        """Forward the process's output line by line, from a thread."""

        def read() -> None:
            assert self.process.stdout is not None
            for line in self.process.stdout:
                self.last_line = line.rstrip() or self.last_line
                self.has_begun = self.has_begun or bool(_LOGGED.match(line))
                say(f"{self.where} | {line.rstrip()}")

        self.reader = threading.Thread(target=read, name=self.id.name, daemon=True)
        self.reader.start()


class RemoteRun:
    """Supervisor of all processes of a cluster, each started over an ssh connection of its own.

    Args:
        cluster: where they are.
        site: how to reach them.
        restarts: which processes to start again.
        rule: the run's `on_agent_loss`.
        say: shows the user one line; threads call it too.
    """

    def __init__(self, cluster: Cluster, site: Site, restarts: Restarts, rule: str, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._site = site
        self._restarts = restarts
        self._rule = rule
        self._say = say
        self._remotes: list[_Remote] = []
        self._over_at: float | None = None

    def run(self) -> int:
        """Start all and stay until the last has ended; the exit status of the launcher."""
        with Interrupts().counted() as interrupts:
            try:
                for process in self._cluster.processes:
                    if not interrupts.count:
                        self._start(process)
                while not interrupts.count:
                    failed = [remote for remote in self._remotes if not self._goes_on_with(remote)]
                    if failed:
                        return self._fail(failed[0])
                    if self._is_over():
                        return self._finish()
                    time.sleep(_POLL)
                self._say("stopping all")
                return EXIT_INTERRUPTED
            finally:
                self._stop()

    def _goes_on_with(self, remote: _Remote) -> bool:
        """Restart a process that has ended or is due, or leave it out; whether the run goes on."""
        code = remote.code
        if code is None or code == 0 or remote.left_out or self._over_at is not None:
            return True
        if remote.start_at is not None:
            if time.monotonic() >= remote.start_at:
                remote.process, remote.start_at = self._connect(remote.id), None
                remote.follow(self._say)
            return True
        delay = remote.back_off.next_delay(time.monotonic()) if self._restarts.covers(code) else None
        if delay is not None:
            self._say(f"{remote.where} {'was killed or cut off' if code < 0 else 'failed'}; again in {delay:g} s")
            remote.start_at = time.monotonic() + delay
            return True
        remote.left_out = goes_on_without(remote.id, code, self._rule)
        if remote.left_out:
            self._say(f"{remote.where} was killed or cut off and is not started any more; the others go on")
        return remote.left_out

    def _is_over(self) -> bool:
        """Whether all have ended, or all environment servers and those who are late cannot take part any more."""
        servers = [remote for remote in self._remotes if remote.id.is_server]
        if self._over_at is None and all(remote.code == 0 for remote in servers):
            self._over_at = time.monotonic()
        late = any(remote.code is None for remote in self._remotes)
        return self._over_at is not None and (not late or time.monotonic() > self._over_at + _STRAGGLERS)

    def _finish(self) -> int:
        """Report the processes that a completed run has lost; the exit status."""
        lost = [remote.where for remote in self._remotes if remote.code != 0]
        if lost:
            self._say(f"matrpo: error: the run is over, but without {', '.join(lost)}")
        return EXIT_FAILED if lost else 0

    def _start(self, started: ProcessId) -> None:
        remote = _Remote(started, host_of(self._cluster.endpoints[started]), self._connect(started))
        remote.follow(self._say)
        self._remotes.append(remote)

    def _connect(self, started: ProcessId) -> subprocess.Popen[str]:
        """An ssh connection that starts a process."""
        insecure = ["--insecure"] if self._cluster.insecure else []
        host = host_of(self._cluster.endpoints[started])
        return subprocess.Popen(
            self._site.command(host, *started.arguments, "--cluster", FILE_NAME, *insecure),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is the launcher's business
        )

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

    def _fail(self, culprit: _Remote) -> int:
        """Report the process that failed; the exit status."""
        culprit.reader.join(1.0)
        code = culprit.process.returncode
        if code == _SSH_FAILED and not culprit.has_begun:
            reason = culprit.last_line or "no reason was given"
            self._say(f"matrpo: error: cannot start {culprit.where} over ssh: {reason}")
            return EXIT_MISTAKE
        self._say(f"matrpo: error: {culprit.where} failed with status {code}: {culprit.last_line}")
        return EXIT_MISTAKE if code == EXIT_MISTAKE else EXIT_FAILED
