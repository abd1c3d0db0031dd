"""The supervisor of a local run: it forks the processes from `warm_parent`, watches, restarts and ends them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from matrpo.errors import ConfigError
from matrpo.faults.fault import Fault
from matrpo.launch import STARTED_AT
from matrpo.launch.cluster.cluster_file import FILE_NAME, Cluster, new_run_id
from matrpo.launch.cluster.key_making import equip
from matrpo.launch.processes.interrupts import Interrupts
from matrpo.launch.processes.process import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_MISTAKE,
    READY,
    StopRequested,
)
from matrpo.launch.processes.process_faults import script_of, was_killed_by_script
from matrpo.launch.processes.restarts import BackOff, Restarts, goes_on_without
from matrpo.launch.processes.temporary_folder import TemporaryFolder, parent_for_sockets
from matrpo.launch.processes.warm_children import StartError, WarmParent
from matrpo.runs.process_directory import ProcessDirectory
from matrpo.runs.process_id import ProcessId, in_order_of_ports
from matrpo.runs.run_directory import RunDirectory
from matrpo.topology import CommunicationGraph

_POLL = 0.25
_GRACE = 10.0
"""Grace period of children to save their state, in seconds, before they are killed."""

_LATE = 3.0
"""Grace period of agents to end, in seconds, once the environment server has."""

_FAREWELL = 5.0
"""Timeout in seconds of the warm parent's word that children that were killed are gone."""

_REMIND = 0.5
"""Seconds between two SIGTERMs to a child that still runs: one at an unlucky moment has no effect."""

_LOG_LINES = 3


@dataclass
class Child:
    """A supervised process of the run, over all its restarts.

    Attributes:
        id: which process.
        directory: its files.
        process: its present life.
        report: the pipe that tells of it.
        started_at: when that life began, in seconds of the system's wall clock.
        back_off: says when it may be started again.
        start_at: when it will be, by the monotonic clock; None if it is not waited for.
        over: its end has been dealt with.
    """

    id: ProcessId
    directory: ProcessDirectory
    process: multiprocessing.process.BaseProcess
    report: Connection[bytes, bytes]
    started_at: float
    back_off: BackOff = field(default_factory=BackOff)
    start_at: float | None = None
    over: bool = False

    @property
    def name(self) -> str:
        """The process's name in messages to the user."""
        return self.id.name

    @property
    def runs(self) -> bool:
        """Whether the process still runs, as of the last look at its exit status."""
        return self.process.exitcode is None

    @property
    def end(self) -> str:
        """How it ended, in words."""
        code = self.process.exitcode or 0
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit status {code}"


class Supervisor:
    """Starts, watches, restarts and ends all processes of one run on this machine.

    Args:
        run: the run directory.
        graph: who talks to whom.
        restarts: which processes to start again.
        say: shows the user one line.
    """

    def __init__(
        self, run: RunDirectory, graph: CommunicationGraph, restarts: Restarts, say: Callable[[str], None]
    ) -> None:
        self._run = run
        self._graph = graph
        self._restarts = restarts
        self._say = say
        self._children: dict[ProcessId, Child] = {}
        self._script = script_of(run, graph)
        self._words: dict[ProcessId, bytes] = {}
        self._ready = False
        self._waited_for = {process for process in run.processes() if process.is_server}
        self._over_at: float | None = None
        self._killed_for_good: set[ProcessId] = set()

    def run(self, tick: Callable[[], None]) -> int:
        """Start all processes and stay until the last has ended.

        Args:
            tick: called a few times a second.

        Returns:
            The exit status of the launcher.
        """
        sockets = TemporaryFolder(parent_for_sockets())
        with Interrupts().counted() as interrupts:
            try:
                interrupts.raising = True  # until the warm parent is warm, starting a child cannot be stopped otherwise
                self._launch(sockets.path)
                interrupts.raising = False
                return self._watch(tick, interrupts)
            except StopRequested:  # while they start: there is nothing to save
                self._kill()
                return EXIT_INTERRUPTED
            except StartError as error:
                self._say(f"matrpo: error: {error}")
                return EXIT_FAILED
            finally:
                self._stop(interrupts)
                sockets.remove()

    def _launch(self, sockets: Path) -> None:
        cluster = make_cluster(self._run, self._graph, sockets)
        if cluster.insecure:
            self._say("INSECURE: TCP without keys; whoever reaches its ports can join in")
        elif cluster.uses_tcp:
            cluster = equip(cluster)
        cluster.save(self._run.path / FILE_NAME)
        threads = str(self._run.config.torch_threads)
        # Without PYTHONSAFEPATH the warm parent would import a folder `matrpo` of the current directory.
        os.environ.update(OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS=threads, PYTHONSAFEPATH="1")
        self._warm_parent = WarmParent(sockets)
        self._cluster = cluster
        for process, directory in self._run.processes().items():
            born = self._warm_parent.start(process, cluster, STARTED_AT)
            self._children[process] = Child(process, directory, *born, STARTED_AT)

    def _start(self, child: Child) -> None:
        """Restart a child that has ended; if that fails, it has failed once more."""
        now = time.time()
        child.start_at, child.over = None, False
        try:
            born = self._warm_parent.start(child.id, self._cluster, now)
        except StartError as error:
            self._say(str(error))
            return
        child.report.close()
        child.process, child.report = born
        child.started_at = now
        self._words.pop(child.id, None)
        self._say(f"{child.name} was started again")

    def _watch(self, tick: Callable[[], None], interrupts: Interrupts) -> int:
        while True:
            running = [child.process.sentinel for child in self._children.values() if child.runs]
            if not running and not any(child.start_at for child in self._children.values()):
                return self._finish()
            wait(running, timeout=_POLL)
            if interrupts.count:
                break  # a signal to all of them has ended who has ended
            if self._warm_parent.wake():
                self._say("the warm parent of all processes was stopped: it was told to go on")
            self._listen()
            ended = [child for child in self._children.values() if not child.runs and not child.over]
            if [child for child in ended if not self._goes_on_after(child)]:
                return self._fail(ended, interrupts)
            self._start_due(interrupts)
            self._end_stragglers()
            tick()
        self._say("stopping; press Ctrl-C again to stop at once")
        self._stop(interrupts)
        return EXIT_INTERRUPTED

    def _goes_on_after(self, child: Child) -> bool:
        """Handle the end of a child; whether the run goes on. It must have begun with all its agents."""
        child.over = True
        code = child.process.exitcode or 0
        serves = child.id.is_server
        if code == 0:
            self._over_at = time.monotonic() if serves else self._over_at
            return True
        if code == -signal.SIGKILL and (fault := self._scripted_end(child)):
            return self._follow_script(child, fault)
        if self._over_at is not None and code in (EXIT_INTERRUPTED, -signal.SIGTERM, -signal.SIGKILL):
            return True
        if self._over_at is None and self._restarts.covers(code) and self._restart_later(child):
            return True
        rule = self._run.config.on_agent_loss
        if not self._ready or not goes_on_without(child.id, code, rule):
            return False
        others = "wait for it" if rule == "wait" else "go on"
        hint = f"matrpo agent --cluster {self._run.path / FILE_NAME} --id {child.id.number}"
        self._say(f"{child.name} {child.end}; the others {others} (`{hint}` brings it back)")
        return any(other.runs for other in self._children.values() if not other.id.is_server)

    def _scripted_end(self, child: Child) -> Fault | None:
        return was_killed_by_script(child.directory, self._script, child.id, child.started_at)

    def _follow_script(self, child: Child, fault: Fault) -> bool:
        """A process has killed itself as the fault script says: start it again if that says so too."""
        delay = fault.amounts.get("restart_after")
        if delay is None:
            self._say(f"{child.name} was killed by the fault script and stays away")
            self._killed_for_good.add(child.id)
            return not child.id.is_server
        self._say(f"{child.name} was killed by the fault script; starting it again in {delay:g} s")
        child.start_at = time.monotonic() + delay
        return True

    def _restart_later(self, child: Child) -> bool:
        """Have a child started again in a while; whether it has not failed too often for that."""
        delay = child.back_off.next_delay(time.monotonic())
        if delay is None:
            self._say(f"{child.name} {child.end}, again and again: it is not started any more")
            return False
        self._say(f"{child.name} {child.end}; starting it again in {delay:g} s")
        child.start_at = time.monotonic() + delay
        return True

    def _start_due(self, interrupts: Interrupts) -> None:
        for child in self._children.values():
            if child.start_at is not None and time.monotonic() >= child.start_at and not interrupts.count:
                with contextlib.suppress(StopRequested):
                    interrupts.raising = True
                    self._start(child)
                interrupts.raising = False

    def _end_stragglers(self) -> None:
        """End agents that have not come back when the environment server has finished: they cannot join any more."""
        if self._over_at is None or time.monotonic() < self._over_at + _LATE:
            return
        patient = time.monotonic() < self._over_at + 2 * _LATE
        for child in self._children.values():
            child.start_at = None
            if child.runs and patient:
                child.process.terminate()
            elif child.runs:
                child.process.kill()

    def _finish(self) -> int:
        """Report the processes that a completed run has lost; the exit status."""
        ended_badly = [process for process, child in self._children.items() if child.process.exitcode]
        lost = [process.name for process in ended_badly if process not in self._killed_for_good]
        if lost:
            self._say(f"matrpo: error: the run is over, but without {', '.join(lost)}")
        return EXIT_FAILED if lost else 0

    def _stop(self, interrupts: Interrupts) -> None:
        """Ask all to save their state and end; after a while, or at one more Ctrl-C, kill who is left."""
        enough = interrupts.presses + 1
        deadline = time.monotonic() + _GRACE
        while interrupts.presses < enough and time.monotonic() < deadline:
            running = [child.process for child in self._children.values() if child.runs]
            if not running:
                return
            self._warm_parent.wake()
            for process in running:
                process.terminate()
            remind_at = time.monotonic() + _REMIND
            while running and time.monotonic() < remind_at and interrupts.presses < enough:
                wait([process.sentinel for process in running], timeout=_REMIND / 5)
                running = [process for process in running if process.exitcode is None]
        self._kill()

    def _kill(self) -> None:
        for child in self._children.values():
            if child.runs:
                child.process.kill()
        until = time.monotonic() + _FAREWELL
        for child in self._children.values():
            child.process.join(max(0.0, until - time.monotonic()))
        if any(child.runs for child in self._children.values()):
            self._warm_parent.kill()

    def _listen(self) -> None:
        """Read the children's reports; of each child, the last one counts."""
        for child in self._children.values():
            with contextlib.suppress(EOFError, OSError):
                while child.report.poll():
                    self._words[child.id] = child.report.recv_bytes()
                    if self._words[child.id] == READY:
                        self._greet(child)

    def _greet(self, child: Child) -> None:
        """Note that a server is ready, having heard from all agents; the run has begun once all servers are."""
        self._waited_for.discard(child.id)
        if not self._waited_for:
            self._ready = True
            seconds = time.time() - child.started_at
            self._say(f"{self._run.num_agents} agents ready after {seconds:.1f} s")

    def _fail(self, ended: list[Child], interrupts: Interrupts) -> int:
        """End the run because a child failed; name the one that failed by itself, and return the exit status."""
        failed = [child for child in ended if child.process.exitcode]
        running = [child for child in self._children.values() if child.runs]
        self._stop(interrupts)
        self._listen()
        if interrupts.count and all(child.process.exitcode == EXIT_INTERRUPTED for child in failed):
            return EXIT_INTERRUPTED  # they were stopped a moment before the launcher
        failed += [child for child in running if child.process.exitcode in (EXIT_FAILED, EXIT_MISTAKE)]
        culprit = next((child for child in failed if child.process.exitcode != EXIT_INTERRUPTED), failed[0])
        self._explain(culprit)
        return EXIT_MISTAKE if culprit.process.exitcode == EXIT_MISTAKE else EXIT_FAILED

    def _explain(self, child: Child) -> None:
        code = child.process.exitcode or 0
        word = self._words.get(child.id, b"").decode(errors="replace")
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else word or "it was stopped"
        self._say(f"matrpo: error: {child.name} failed: {reason}")
        lines = _tail(child.directory.log_path)
        if word and lines and lines[-1].endswith(f" ERROR {word}"):
            lines = []  # the reason is all that it has to say
        for line in lines:
            self._say(f"  {line}")
        self._say(f"  its log: {child.directory.log_path}")


def make_cluster(run: RunDirectory, graph: CommunicationGraph, sockets: Path) -> Cluster:
    """The cluster of a local run: every process gets its endpoint.

    Args:
        run: the run directory.
        graph: who talks to whom.
        sockets: folder for ipc sockets.
    """
    tcp = run.config.transport == "tcp"
    processes = in_order_of_ports(run.num_agents, run.num_servers)
    endpoints = {
        process: f"tcp://127.0.0.1:{run.config.port + place}" if tcp else f"ipc://{sockets}/{process.slug}"
        for place, process in enumerate(processes)
    }
    insecure = run.config.insecure and tcp
    return Cluster(new_run_id(run.identity), run.path / "config.yaml", endpoints, graph, insecure=insecure)


def local_ports(first: int, num_agents: int, num_servers: int = 1) -> range:
    """The TCP ports of a local run, in the order of `in_order_of_ports`."""
    return range(first, first + num_agents + num_servers)


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


def _tail(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    except OSError:
        return []
