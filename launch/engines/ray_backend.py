"""`matrpo launch --backend ray`: every process of a run in an actor of its own, spread over the nodes of a Ray cluster.

Ray places the actors and brings them back; their addresses are found when they start and written into the cluster file.
What agents say to each other goes over their own encrypted links; Ray carries settings and keys to the actors,
and metrics and checkpoints back into the run directory here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matrpo.errors import ConfigError
from matrpo.launch.cluster.cluster_file import FILE_NAME, Cluster, host_of, new_run_id, port_of
from matrpo.launch.cluster.key_making import equip
from matrpo.launch.cluster.keys import key_path
from matrpo.launch.engines.ray_host import Change, Host, Place, Version, View
from matrpo.launch.processes.interrupts import Interrupts
from matrpo.launch.processes.process import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_MISTAKE
from matrpo.launch.processes.restarts import BackOff, goes_on_without
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_directory import RunDirectory
from matrpo.runs.storage import write_crash_safely
from matrpo.topology import CommunicationGraph

_POLL = 0.25
_LOOK_EVERY = 1.0
"""Seconds between two polls of a Ray actor."""

_ANSWER = 5.0
"""Timeout of a connection to a Ray cluster, in seconds."""

_PATIENCE = 120.0
"""Timeout for Ray to place all actors, in seconds."""

_LAST_WORDS = 15.0
"""Timeout at the end for actors to end their processes and hand over the last files, in seconds."""

_STRAGGLERS = 60.0
"""Timeout for all other processes to end by themselves once an environment server has, in seconds."""


@dataclass
class _Actor:
    """The launcher's record of one process of the run and the Ray actor that hosts it.

    Attributes:
        id: which process.
        handle: Ray's.
        place: where its present life is.
        known: its files as they are in the run directory here.
        looking: the look that is under way.
        look_at: when the next one begins at the earliest, by the monotonic clock.
        start_at: when its process is started again, by the monotonic clock; None if it is not waited for.
        status: the exit status of its process, once that has ended for good.
        left_out: that was no success, and the others go on without it.
        back_off: says when it may be started again.
    """

    id: ProcessId
    handle: Any
    place: Place | None = None
    known: dict[str, Version] = field(default_factory=dict)
    looking: Any = None
    look_at: float = 0.0
    start_at: float | None = None
    status: int | None = None
    left_out: bool = False
    back_off: BackOff = field(default_factory=BackOff)

    @property
    def name(self) -> str:
        """The process's name in messages to the user."""
        return self.id.name


class RayRun:
    """Supervisor of one run's processes in the Ray cluster that this process has joined.

    Args:
        run: the run directory, here.
        graph: who talks to whom.
        say: shows the user one line.

    Raises:
        ConfigError: Ray is not installed.
    """

    def __init__(self, run: RunDirectory, graph: CommunicationGraph, say: Callable[[str], None]) -> None:
        self._ray = load_ray()
        self._run = run
        self._graph = graph
        self._say = say
        self._actors: list[_Actor] = []
        self._over_at: float | None = None

    def run(self, tick: Callable[[], None]) -> int:
        """Start all actors and stay until the last process has ended.

        Args:
            tick: called a few times a second.

        Returns:
            The exit status of the launcher.

        Raises:
            ConfigError: Ray does not place the actors.
        """
        with Interrupts().counted() as interrupts:
            try:
                self._place_all()
                return self._watch(tick, interrupts)
            finally:
                self._end()
                self._ray.shutdown()

    def _place_all(self) -> None:
        """Have Ray place every actor, write the endpoints into the cluster file, and start the processes."""
        run_id = new_run_id(self._run.identity)
        host = self._ray.remote(Host)
        options = {"max_restarts": -1, "num_cpus": 1, "scheduling_strategy": "SPREAD"}
        for process in self._run.processes():
            handle = host.options(name=f"{run_id} {process.name}", **options).remote()
            self._actors.append(_Actor(process, handle))
        actors = self._actors
        try:
            places = self._ray.get([actor.handle.place.remote(0) for actor in actors], timeout=_PATIENCE)
        except self._ray.exceptions.GetTimeoutError:
            raise ConfigError(f"the Ray cluster has not placed {len(actors)} actors in {_PATIENCE:.0f} s") from None
        for actor, place in zip(actors, places, strict=True):
            actor.place = place
        endpoints = {actor.id: _endpoint(place) for actor, place in zip(actors, places, strict=True)}
        self._cluster = equip(Cluster(run_id, self._run.path / "config.yaml", endpoints, self._graph))
        self._cluster.save(self._cluster.file)
        hosts = sorted({place.host for place in places})
        self._say(f"{len(actors)} actors on {len(hosts)} {'address' if len(hosts) == 1 else 'addresses'}")
        for actor in actors:
            self._start(actor)

    def _start(self, actor: _Actor) -> None:
        """Start an actor's process; a new actor first gets the process's files from the run directory here."""
        own = [self._cluster.config, self._cluster.file, key_path(self._cluster.file, actor.id)]
        if not actor.known:
            own += [path for path in self._run.directory(actor.id).path.rglob("*") if path.is_file()]
        files = {str(path.relative_to(self._run.path)): path.read_bytes() for path in own}
        actor.start_at = actor.looking = None  # a look that is under way may see the process before
        actor.handle.start.remote(files, [*actor.id.arguments, "--cluster", FILE_NAME], self._run.config.torch_threads)

    def _watch(self, tick: Callable[[], None], interrupts: Interrupts) -> int:
        while not interrupts.count:
            for actor in self._actors:
                self._look(actor)
                if actor.start_at is not None and time.monotonic() >= actor.start_at:
                    self._start(actor)
            failed = [actor for actor in self._actors if actor.status not in (None, 0) and not actor.left_out]
            if failed and self._over_at is None:
                self._explain(failed[0])
                return EXIT_MISTAKE if failed[0].status == EXIT_MISTAKE else EXIT_FAILED
            late = any(actor.status is None for actor in self._actors)
            if self._over_at is not None and (not late or time.monotonic() > self._over_at + _STRAGGLERS):
                return self._finish()
            tick()
            time.sleep(_POLL)
        self._say("stopping")
        return EXIT_INTERRUPTED

    def _finish(self) -> int:
        """Report the processes that a completed run has lost; the exit status."""
        lost = [actor.name for actor in self._actors if actor.status != 0]
        if lost:
            self._say(f"matrpo: error: the run is over, but without {', '.join(lost)}")
        return EXIT_FAILED if lost else 0

    def _look(self, actor: _Actor) -> None:
        """Handle the result of an actor's finished poll, and begin the next poll when it is due."""
        if actor.looking is not None:
            done, _ = self._ray.wait([actor.looking], timeout=0)
            if not done:
                return
            with contextlib.suppress(self._ray.exceptions.RayActorError):  # Ray is bringing it back
                self._take_in(actor, self._ray.get(actor.looking))
            actor.looking = None
        if time.monotonic() >= actor.look_at:
            actor.look_at = time.monotonic() + _LOOK_EVERY
            actor.looking = actor.handle.look.remote(actor.known)

    def _take_in(self, actor: _Actor, view: View) -> None:
        assert actor.place is not None
        if view.life != actor.place.life:
            self._revive(actor)
            return
        self._mirror(actor, view)
        if view.status is None or actor.start_at is not None or actor.status is not None:
            return
        if view.status == 0:
            actor.status = 0
            if actor.id.is_server:
                self._over_at = time.monotonic()
            return
        delay = None if view.status == EXIT_MISTAKE else actor.back_off.next_delay(time.monotonic())
        if delay is None:
            self._give_up(actor, view.status)
            return
        self._say(f"{actor.name} failed; starting it again in {delay:g} s")
        actor.start_at = time.monotonic() + delay

    def _give_up(self, actor: _Actor, status: int) -> None:
        """Note that a process is not started any more; a run that has begun may go on without it."""
        actor.status = status
        begun = self._run.env.metrics_path.exists()
        actor.left_out = begun and goes_on_without(actor.id, status, self._run.config.on_agent_loss)
        if actor.left_out:
            self._say(f"{actor.name} was killed again and again: it is not started any more, the others go on")

    def _revive(self, actor: _Actor) -> None:
        """Start the process of an actor that Ray has restarted, and restart those that dial it if it has moved."""
        before = self._cluster.endpoints[actor.id]
        actor.place, actor.known, actor.looking = None, {}, None
        try:
            place = self._ray.get(actor.handle.place.remote(port_of(before)), timeout=_PATIENCE)
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.GetTimeoutError):
            actor.place = Place("", host_of(before), port_of(before))
            return
        actor.place = place
        moved = _endpoint(place) != before
        self._say(f"{actor.name} is back{f', now at {place.host}:{place.port}' if moved else ''}")
        if moved:
            self._move(actor.id, _endpoint(place))
        self._start(actor)

    def _move(self, process: ProcessId, endpoint: str) -> None:
        """Write a process's new endpoint into the cluster file, and restart the processes that dial it."""
        self._cluster = dataclasses.replace(self._cluster, endpoints={**self._cluster.endpoints, process: endpoint})
        self._cluster.save(self._cluster.file)
        dialling = self._cluster.dialled_by(process)
        for actor in self._actors:
            if actor.id in dialling and actor.status is None:
                self._start(actor)

    def _mirror(self, actor: _Actor, view: View) -> None:
        """Apply the changes of an actor's files to the run directory here."""
        for change in view.changes:
            if Path(change.path).name not in ("config.yaml", FILE_NAME):
                _write(self._run.path / change.path, change)
            actor.known[change.path] = change.version
        for path in view.gone:
            (self._run.path / path).unlink(missing_ok=True)
            del actor.known[path]

    def _end(self) -> None:
        """End all processes, take their last files, and leave nothing behind."""
        for actor in self._actors:
            actor.handle.stop.remote()
        looks = [(actor, actor.handle.look.remote(actor.known)) for actor in self._actors]
        until = time.monotonic() + _LAST_WORDS
        for actor, look in looks:
            with contextlib.suppress(self._ray.exceptions.RayError):
                view = self._ray.get(look, timeout=max(0.1, until - time.monotonic()))
                if actor.place is not None and view.life == actor.place.life:
                    self._mirror(actor, view)
        farewells = [actor.handle.forget.remote() for actor in self._actors]
        if farewells:
            self._ray.wait(farewells, num_returns=len(farewells), timeout=_LAST_WORDS)

    def _explain(self, actor: _Actor) -> None:
        log = self._run.directory(actor.id).log_path
        lines = log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []
        self._say(f"matrpo: error: {actor.name} failed with exit status {actor.status}")
        for line in [*lines, f"its log: {log}"]:
            self._say(f"  {line}")


def load_ray() -> Any:
    """Import the module `ray`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("--backend ray needs Ray: install matrpo[ray], here and on every node") from None
    return ray


def join_ray(address: str | None, processes: int) -> None:
    """Join a Ray cluster.

    Args:
        address: whose; None starts one on this machine, which ends with this process.
        processes: actors of one CPU each that it must have room for.

    Raises:
        ConfigError: Ray is not installed, there is no such cluster, or it is too small.
    """
    ray = load_ray()
    _knock(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    size = {} if address else {"num_cpus": processes, "include_dashboard": False}
    # What stops a run is the launcher's business, not that of Ray's processes here; Ray does so for SIGINT.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    try:
        ray.init(address=address, namespace="matrpo", log_to_driver=False, logging_level="ERROR", **size)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--ray-address {address}: cannot join this Ray cluster: {reason}") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    cores = int(ray.cluster_resources().get("CPU", 0))
    if cores < processes:
        ray.shutdown()
        raise ConfigError(f"the Ray cluster has {cores} CPUs, but the run has {processes} processes of one each")


def _knock(address: str | None) -> None:
    """Check that HOST:PORT accepts connections: Ray itself would retry for many minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER).close()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--ray-address {address}: no Ray cluster can be reached there: {error}") from None


def _endpoint(place: Place) -> str:
    return f"tcp://{place.host}:{place.port}"


def _write(path: Path, change: Change) -> None:
    if change.offset == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_crash_safely(path, change.data)
        return
    with open(path, "r+b") as file:
        file.seek(change.offset)
        file.write(change.data)
