"""What a process writes down after each iteration, be it one of many or all agents in one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from matrpo.consensus.link_types import Counters
from matrpo.consensus.peer import Peer
from matrpo.runs.event_file import EventFile
from matrpo.runs.process_directory import ProcessDirectory
from matrpo.runs.run_directory import RunDirectory, identity
from matrpo.spaces import TaskSpec

State = tuple[Mapping[str, np.ndarray], Mapping[str, Any]]
"""A process's state: arrays and what JSON can hold."""

_CHECKPOINTS_FOR_A_COMMON_ONE = 2

_LINK_TOTALS = (
    *("commits", "give_ups", "skips", "resends", "quarantines"),
    *("messages_sent", "bytes_sent", "messages_received", "bytes_received", "unsent"),
)
"""What is counted on each link and added up."""

_TAGS = {
    "team_return_mean": "charts/episodic_return",
    "episode_length_mean": "charts/episodic_length",
    "steps_per_second": "charts/SPS",
    "kl": "losses/approx_kl",
    "surrogate": "losses/surrogate",
    "critic_loss": "losses/value_loss",
    "entropy": "losses/entropy",
    "explained_variance": "losses/explained_variance",
}
"""CleanRL's names of what has one; everything else is `details/<its name>`."""


@dataclass(frozen=True)
class _Snapshot:
    iteration: int
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


class Recorder:
    """The metrics lines, TensorBoard scalars and checkpoints of one process.

    The environment's lock step keeps all processes within one iteration of each other. So each keeps its last
    two states in memory and `save` writes both: whenever a run stops, all have an iteration in common.

    Args:
        run: the run's folder.
        process: the files of this process in it.
        spec: the task, to mark checkpoints with.
        start: the iteration that the process continues from; 0 for a new run.
    """

    def __init__(self, run: RunDirectory, process: ProcessDirectory, spec: TaskSpec, start: int = 0) -> None:
        self._config = run.config
        self._process = process
        self._belongs_to = identity(spec, run.config)
        self._snapshots: list[_Snapshot] = []
        self._events: EventFile | None = None
        if self._config.tensorboard:
            self._events = EventFile(run.tensorboard(process), (start + 1) * self._config.samples)

    def record(self, iteration: int, metrics: Mapping[str, Any], state: State) -> None:
        """Write the line of `iteration`, and its checkpoint when one is due.

        Args:
            iteration: the iteration that ended, from 1.
            metrics: what happened in it; numbers, None, or mappings of numbers.
            state: this process's state now; it is copied.

        Raises:
            StorageError: the disk is full or read-only.
        """
        config, steps = self._config, iteration * self._config.samples
        self._process.log_metrics({"iteration": iteration, "steps": steps, "time": time.time(), **metrics})
        if self._events:
            self._events.add(steps, _scalars(metrics))
        arrays, meta = state
        copies = {name: np.array(array) for name, array in arrays.items()}
        snapshot = _Snapshot(iteration, copies, {"belongs_to": self._belongs_to, **meta})
        self._snapshots = [*self._snapshots[-1:], snapshot]
        if iteration % config.checkpoint_every == 0 or iteration == config.iterations:
            self._write(snapshot)
            self._process.prune(max(config.checkpoints_kept, _CHECKPOINTS_FOR_A_COMMON_ONE))

    def save(self) -> None:
        """Write the last two states to disk, where they are not there yet.

        Raises:
            StorageError: the disk is full or read-only.
        """
        for snapshot in self._snapshots:
            self._write(snapshot)

    def _write(self, snapshot: _Snapshot) -> None:
        if snapshot.iteration not in self._process.checkpoint_iterations():
            self._process.save_checkpoint(snapshot.iteration, snapshot.arrays, snapshot.meta)


LinkState = Literal["connecting", "up", "suspect", "down"]


@dataclass
class Traffic:
    """What went through one link since the agent was started.

    Attributes:
        unsent: messages that met no connection, or a full queue.
        refused: messages that were not decodable, or not the neighbour's to send, by reason.
    """

    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0
    unsent: int = 0
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Connection:
    """How the connection of a link is doing.

    Attributes:
        state: `up`; `connecting`: never yet; `suspect`: there, but the neighbour does not answer; `down`: lost.
        round_trip: smallest and median round-trip time in milliseconds in the last iteration, if any was measured.
    """

    state: LinkState
    round_trip: tuple[float, float] | None


class PhaseClock:
    """What each iteration took: seconds in each phase, seconds of waiting, and by how much counters grew.

    Args:
        now: reads a monotonic clock, in seconds.
        waited: reads how many of them were spent waiting for others so far; they count for no phase. None where there
            is nobody to wait for.
        used: reads the processor seconds that this process has used so far. None where they are not this clock's alone.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.perf_counter,
        waited: Callable[[], float] | None = None,
        used: Callable[[], float] | None = None,
    ) -> None:
        self._now = now
        self._waited = waited
        self._used = used
        self._taken_at = used() if used else 0.0
        self._seconds: dict[str, float] = {}
        self._counters: Mapping[str, Any] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the block for `name`."""
        begin, waited = self._now(), self._waited() if self._waited else 0.0
        used = self._used() if self._used else 0.0
        try:
            yield
        finally:
            seconds = self._now() - begin
            if self._waited:
                waited = self._waited() - waited
                self._add("seconds_waiting", waited)
                seconds -= waited
            self._add(f"seconds_{name}", seconds)
            if self._used:
                self._add(f"cpu_seconds_{name}", self._used() - used)

    def take(self, counters: Mapping[str, Any]) -> dict[str, Any]:
        """Growth of each counter since the last call, `seconds_<phase>` of each phase and `seconds_waiting` since then.

        Where processor time is read, also `cpu_seconds_<phase>`, and `cpu_seconds` of all that was done since then.

        Args:
            counters: numbers, or mappings of counters.
        """
        grown = _growth(counters, self._counters)
        if self._used:
            used = self._used()
            self._add("cpu_seconds", used - self._taken_at)
            self._taken_at = used
        seconds = self._seconds
        self._counters, self._seconds = counters, {}
        return grown | seconds

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds


def agent_metrics(
    learning: Mapping[str, float],
    peer: Peer,
    clock: PhaseClock,
    traffic: Mapping[int, Traffic] | None = None,
    connections: Mapping[int, Connection] | None = None,
    refused: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """An agent's line of one iteration: what it learnt, what happened on all links together, and `links` on each.

    A link's `states` are fingerprints by number: of those that its two ends share, the fingerprints must be equal.

    Args:
        learning: what `Agent.finish_update` says.
        peer: the agent's side of the consensus.
        clock: of this agent, kept from one iteration to the next.
        traffic: what has gone through its links so far, by neighbour; None where there are no sockets.
        connections: how their connections are doing.
        refused: what was turned away at all its sockets so far, strangers' included, by reason.
    """
    traffic, connections = traffic or {}, connections or {}
    links = {
        str(link.neighbour): _link_counters(peer.link_counters[number], traffic.get(link.neighbour, Traffic()))
        for number, link in sorted(peer.links.items(), key=lambda item: item[1].neighbour)
    }
    counters: dict[str, Any] = {name: sum(link[name] for link in links.values()) for name in _LINK_TOTALS}
    counters["rejected"] = sum(sum(link["rejected"].values()) for link in links.values())
    grown = clock.take({**counters, "refused": dict(refused or {}), "links": links})
    for link in peer.links.values():
        grown["links"][str(link.neighbour)]["states"] = link.fingerprints()
    for neighbour, connection in connections.items():
        smallest, median = connection.round_trip or (None, None)
        state = {"state": connection.state, "rtt_ms_min": smallest, "rtt_ms_median": median}
        grown["links"][str(neighbour)] |= state
    return {**learning, "consensus_residual": peer.residual(), **grown}


def _link_counters(counters: Counters, traffic: Traffic) -> dict[str, Any]:
    own = {**vars(counters), **vars(traffic)}
    rejected = Counter(own.pop("drops")) + Counter(own.pop("refused"))
    return {**own, "rejected": dict(rejected)}


def _growth(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _growth(value, before.get(name, {})) if isinstance(value, Mapping) else value - before.get(name, 0)
        for name, value in now.items()
    }


def environment_metrics(
    episodes: Mapping[str, Any], samples: int, seconds: float, rollout: float, absent: int = 0, substituted: int = 0
) -> dict[str, Any]:
    """The environment's line of one iteration.

    Args:
        episodes: what `SharedEnvironment.take_metrics` says.
        samples: environment steps of the iteration.
        seconds: wall-clock time since the iteration before ended.
        rollout: wall-clock time of the rollout alone.
        absent: agents that took no part in it, or not to its end.
        substituted: steps of the rollout in which an agent's actions were zeros in its place.
    """
    return {
        **episodes,
        "agents_absent": absent,
        "steps_substituted": substituted,
        "steps_per_second": samples / seconds,
        "rollout_steps_per_second": samples / rollout,
        "seconds_rollout": rollout,
    }


def _scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= {f"details/{name}/{key}": item for key, item in value.items() if _is_number(item)}
        elif _is_number(value):
            flat[_TAGS.get(name, f"details/{name}")] = float(value)
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number)
