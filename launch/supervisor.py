"""The launcher's side of a run: it starts the processes from one warm parent, watches them, and ends them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path

import psutil

from matrpo.config import ConfigError
from matrpo.launch.children import run_child
from matrpo.launch.cluster import FILE_NAME, Cluster
from matrpo.launch.process import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_MISTAKE, READY, StopRequested, Supervision
from matrpo.process_directory import ProcessDirectory
from matrpo.run_directory import RunDirectory
from matrpo.topology import CommunicationGraph

_WARM = "matrpo.launch.warm_parent"
_POLL = 0.25
_GRACE = 3.0
"""Seconds that children have to save their state."""

_REMIND = 0.5
"""Seconds between two requests to stop: one that met an unlucky moment is repeated."""

_LOG_LINES = 3
_LONGEST_FOLDER = 70


@dataclass(frozen=True)
class Child:
    """A process of the run, its files, and the pipe that tells of it."""

    name: str
    process: multiprocessing.process.BaseProcess
    directory: ProcessDirectory
    report: Connection[bytes, bytes]


class Interrupts:
    """Counts Ctrl-C, SIGTERM and a closed terminal instead of letting them end the launcher.

    Attributes:
        count: how often that happened.
        raising: whether the next one also raises `StopRequested`.
    """

    def __init__(self) -> None:
        self.count = 0
        self.raising = False

    @contextlib.contextmanager
    def counted(self) -> Iterator[Interrupts]:
        """Count inside the block."""

        def count(_signal: int, _frame: object) -> None:
            self.count += 1
            if self.raising:
                self.raising = False
                raise StopRequested

        stops = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        old = {number: signal.getsignal(number) for number in stops}
        try:
            for number in stops:
                if (number, old[number]) != (signal.SIGHUP, signal.SIG_IGN):  # nohup
                    signal.signal(number, count)
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


class Supervisor:
    """The processes of one run on this machine.

    Args:
        run: the run directory.
        graph: who talks to whom.
        start: the iteration to continue from; 0 for a new run.
        say: shows the user one line.
    """

    def __init__(self, run: RunDirectory, graph: CommunicationGraph, start: int, say: Callable[[str], None]) -> None:
        self._run = run
        self._graph = graph
        self._start = start
        self._say = say
        self._children: list[Child] = []
        self._words: dict[str, bytes] = {}
        self._launched_at = psutil.Process().create_time()

    def run(self, tick: Callable[[], None]) -> int:
        """Start all processes and stay until the last has ended.

        Args:
            tick: called a few times a second.

        Returns:
            The exit status of the launcher.
        """
        with Interrupts().counted() as interrupts:
            sockets = Path(tempfile.mkdtemp(prefix="matrpo-", dir=_short_folder()))
            try:
                interrupts.raising = True  # until the warm parent is warm, starting a child cannot be stopped otherwise
                self._launch(sockets)
                interrupts.raising = False
                return self._watch(tick, interrupts)
            except StopRequested:
                return EXIT_INTERRUPTED
            finally:
                self._kill()
                shutil.rmtree(sockets, ignore_errors=True)

    def _launch(self, sockets: Path) -> None:
        cluster = make_cluster(self._run, self._graph, sockets)
        cluster.save(self._run.path / FILE_NAME)
        threads = str(self._run.config.torch_threads)
        # Without PYTHONSAFEPATH the warm parent would import a folder `matrpo` of the current directory.
        os.environ.update(OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads, PYTHONSAFEPATH="1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([_WARM])
        _start_warm_parent()
        for name, directory in self._run.processes().items():
            report, remote = context.Pipe(duplex=False)
            supervision = Supervision(remote, sockets, self._launched_at)
            process = context.Process(target=run_child, args=(name, cluster, self._start, supervision), name=name)
            process.start()
            remote.close()
            self._children.append(Child(name, process, directory, report))

    def _watch(self, tick: Callable[[], None], interrupts: Interrupts) -> int:
        while not interrupts.count:
            running = [child for child in self._children if child.process.exitcode is None]
            if not running:
                return 0
            wait([child.process.sentinel for child in running], timeout=_POLL)
            self._listen()
            if any(child.process.exitcode for child in self._children):
                return self._fail(interrupts)
            tick()
        self._say("stopping; press Ctrl-C again to stop at once")
        self._stop(interrupts)
        return EXIT_INTERRUPTED

    def _stop(self, interrupts: Interrupts) -> None:
        """Ask all to save their state and end; after a while, or at one more Ctrl-C, kill who is left."""
        enough = interrupts.count + 1
        deadline = time.monotonic() + _GRACE
        while interrupts.count < enough and time.monotonic() < deadline:
            running = [child.process for child in self._children if child.process.exitcode is None]
            if not running:
                return
            for process in running:
                process.terminate()
            remind_at = time.monotonic() + _REMIND
            while running and time.monotonic() < remind_at and interrupts.count < enough:
                wait([process.sentinel for process in running], timeout=_REMIND / 5)
                running = [process for process in running if process.exitcode is None]
        self._kill()

    def _kill(self) -> None:
        for child in self._children:
            if child.process.exitcode is None:
                child.process.kill()
        for child in self._children:
            child.process.join()

    def _listen(self) -> None:
        """Take in what children say; of each, the last word counts."""
        for child in self._children:
            with contextlib.suppress(EOFError, OSError):
                while child.report.poll():
                    self._words[child.name] = child.report.recv_bytes()
                    if self._words[child.name] == READY:
                        seconds = time.time() - self._launched_at
                        self._say(f"{self._run.num_agents} agents ready after {seconds:.1f} s")

    def _fail(self, interrupts: Interrupts) -> int:
        """End the run because a child failed; name the one that failed by itself, and return the exit status."""
        failed = [child for child in self._children if child.process.exitcode]
        self._stop(interrupts)
        self._listen()
        failed += [child for child in self._children if child.process.exitcode in (EXIT_FAILED, EXIT_MISTAKE)]
        culprit = next((child for child in failed if child.process.exitcode != EXIT_INTERRUPTED), failed[0])
        self._explain(culprit)
        return EXIT_MISTAKE if culprit.process.exitcode == EXIT_MISTAKE else EXIT_FAILED

    def _explain(self, child: Child) -> None:
        code = child.process.exitcode or 0
        word = self._words.get(child.name, b"").decode(errors="replace")
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else word or "it was stopped"
        self._say(f"matrpo: error: {child.name} failed: {reason}")
        for line in _tail(child.directory.log_path):
            self._say(f"  {line}")
        self._say(f"  its log: {child.directory.log_path}")


def _start_warm_parent() -> None:
    """Start the process that children are forked from, deaf to the terminal from its first instruction on."""
    resource_tracker.ensure_running()  # here, since it ends by unblocking SIGINT
    terminal = {signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, terminal)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, terminal)


def make_cluster(run: RunDirectory, graph: CommunicationGraph, sockets: Path) -> Cluster:
    """Give every process of a local run its endpoint.

    Args:
        run: the run directory.
        graph: who talks to whom.
        sockets: folder for ipc sockets.
    """
    config = run.config
    if config.transport == "tcp":
        server, *agents = [f"tcp://127.0.0.1:{port}" for port in local_ports(config.port, run.num_agents)]
    else:
        server = f"ipc://{sockets}/env"
        agents = [f"ipc://{sockets}/agent-{agent:02d}" for agent in range(run.num_agents)]
    return Cluster(secrets.token_hex(8), run.path / "config.yaml", server, tuple(agents), graph)


def local_ports(first: int, num_agents: int) -> range:
    """The TCP ports of a local run: the environment server's, then one for each agent."""
    return range(first, first + num_agents + 1)


def check_ports(ports: range) -> None:
    """Check that a local run can listen at these TCP ports.

    Raises:
        ConfigError: one is in use, or does not exist.
    """
    if ports.stop > 65536:
        raise ConfigError(f"ports {ports.start} to {ports.stop - 1} are needed, but 65535 is the last: lower 'port'")
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise ConfigError(
                    f"cannot listen at port {port} of 127.0.0.1: {error.strerror}; choose another 'port' "
                    f"({ports.start} to {ports.stop - 1} are needed)"
                ) from None


def _short_folder() -> str:
    """Where to put sockets: their paths may have 107 characters at most."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= _LONGEST_FOLDER else "/tmp"


def _tail(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    except OSError:
        return []
