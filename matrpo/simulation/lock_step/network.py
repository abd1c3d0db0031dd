"""The simulated connections of agents and environment servers: they come and go, and lose, repeat and delay messages.

As over TCP, a connection keeps its messages in order, but for those that a fault delays, and both ends are told of its
end, each at a time of its own. What had not arrived by then is lost; what a process sent before it ended is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from matrpo.faults.passage import Passage
from matrpo.simulation.events import Clock, EventQueue
from matrpo.simulation.lock_step.history import MESSAGE_FAULTS, LockStepHistory, ProcessFault

_LATENCY = (0.005, 0.06)
_DIAL = (0.01, 0.2)
_TOLD = {"a": (0.001, 0.1), "s": (0.001, 0.25)}
"""Seconds until an end of a connection is told that it is gone: a server probes its connections now and then."""

_UNHEARD = (0.5, 2.5)
"""The same, where the other end vanished without a word."""

_QUEUE = 8
"""Messages of a connection that wait for a process that does not read; more are lost."""

_KEPT = 4
"""Messages that an agent's socket keeps for the next connection, when it is not known yet that the last one is gone."""


@dataclass(eq=False)
class Line:
    """A connection of an agent and a server.

    Attributes:
        agent, server: the processes.
        address: how the server names it.
        broken: it is gone.
        told: the names of the processes that know.
        arrived: by receiver, when its last message arrives.
        queued: by receiver, the messages that have arrived and are not read.
    """

    agent: Process
    server: Process
    address: bytes
    broken: bool = False
    told: set[str] = field(default_factory=set)
    arrived: dict[str, float] = field(default_factory=dict)
    queued: dict[str, int] = field(default_factory=dict)

    def other(self, process: Process) -> Process:
        """The process at the other end."""
        return self.server if process is self.agent else self.agent


@dataclass(frozen=True)
class Change:
    """A connection has come, or gone."""

    line: Line
    connected: bool


class Process:
    """A simulated process: what has arrived for it, whether it runs, and its clock.

    Attributes:
        name: `a0` or `s0`.
        number: its number among the agents, or the servers.
        alive: it was started and has not ended.
        how: how it ended, once it did so by itself.
        paused: by how many faults it stands still; so do its connections.
        silent: by how many faults it does nothing.
        busy_until: true time until which it computes and looks at nothing.
        fuse: how many messages it sends before it is killed; None if it is not to be.
        inbox: what has arrived and was not looked at: messages, with their connections, and changes.
    """

    def __init__(self, name: str, queue: EventQueue, rng: Random) -> None:
        self.name = name
        self.number = int(name[1:])
        self.alive = False
        self.how: str | None = None
        self.paused = self.silent = 0
        self.busy_until = 0.0
        self.fuse: int | None = None
        self.inbox: list[Change | tuple[Line, Any]] = []
        self.clock = Clock(rng.uniform(0.0, 1000.0), rng.uniform(0.9, 1.1))
        self.queue = queue

    @property
    def is_idle(self) -> bool:
        """Whether it would look at what arrives."""
        return self.alive and not (self.paused or self.silent) and self.queue.now >= self.busy_until

    @property
    def now(self) -> float:
        """The reading of its clock."""
        return self.clock.now(self.queue.now)

    def take_inbox(self) -> list[Change | tuple[Line, Any]]:
        """What has arrived since the last call."""
        inbox, self.inbox = self.inbox, []
        for item in inbox:
            if not isinstance(item, Change):
                item[0].queued[self.name] = 0
        return inbox

    def sleep_until(self, wake: float) -> None:
        """Go on at a reading of its clock, or when something arrives."""
        if self.clock.sleep_until(wake, self.queue.now):
            self.queue.schedule(self.clock.wake_at, self._ring)

    def _ring(self) -> None:
        if self.is_idle and self.clock.wake_at <= self.queue.now:
            self.go_on()

    def go_on(self) -> None:
        """Look at what has arrived, and at the clock, and act on it."""
        raise NotImplementedError


class Network:
    """Simulated connections of all agents to all servers, with a history's faults.

    Args:
        history: with the faults.
        queue: of the simulation's events.
        rng: random stream that decides about each message.
        agents, servers: the processes.
        say: is given what happens to messages, in words; None if nobody wants to know.
    """

    def __init__(
        self,
        history: LockStepHistory,
        queue: EventQueue,
        rng: Random,
        agents: list[Any],
        servers: list[Any],
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._say = say
        self._queue = queue
        self._rng = rng
        self._agents = agents
        self._servers = servers
        self._faults = [fault for fault in history.faults if fault.kind in MESSAGE_FAULTS]
        self._cuts: list[tuple[str, ...]] = []
        self._lines: dict[tuple[str, str], Line] = {}
        self._kept: dict[tuple[str, str], list[Any]] = {}
        self._numbers = 0

    # Connections

    def line(self, agent: Process, server: Process) -> Line | None:
        """The present connection of two processes, also while one of them does not know that it is gone."""
        return self._lines.get((agent.name, server.name))

    def dial(self, process: Process) -> None:
        """A process is there: agents dial servers, soon."""
        for agent, server in self._pairs(process.name):
            self._queue.schedule(self._queue.now + self._rng.uniform(*_DIAL), self._connect, agent, server)

    def _connect(self, agent: Process, server: Process) -> None:
        pair = (agent.name, server.name)
        known = self._lines.get(pair)
        is_known = known is not None and agent.name not in known.told
        if is_known or not (agent.alive and server.alive) or agent.paused or server.paused or self._is_cut(*pair):
            return
        self._numbers += 1
        line = self._lines[pair] = Line(agent, server, b"%d" % self._numbers)
        self._arrive(agent, Change(line, True))
        for message in self._kept.pop(pair, []):
            self.send(agent, line, message)

    def hang_up(self, agent: Process) -> None:
        """An agent closes its sockets, and will dial anew."""
        for _, server in self._pairs(agent.name):
            self.break_line(agent, server)
            if line := self.line(agent, server):
                line.told.add(agent.name)
        agent.inbox.clear()

    def _is_cut(self, agent: str, server: str) -> bool:
        return any(set(cut) <= {agent, server} for cut in self._cuts)

    def cut(self, where: tuple[str, ...]) -> None:
        """No connection to a process, or between two, from now on."""
        self._cuts.append(where)
        for agent, server in self._pairs(*where):
            self.break_line(agent, server)

    def mend(self, where: tuple[str, ...]) -> None:
        """Connections are possible again."""
        self._cuts.remove(where)
        for agent, _ in self._pairs(*where):
            self.dial(agent)

    def gone(self, process: Process, with_a_word: bool) -> None:
        """A process stands still, or has ended: all its connections are gone."""
        for agent, server in self._pairs(process.name):
            self.break_line(agent, server, with_a_word)
            if not process.alive and (line := self.line(agent, server)):
                line.told.add(process.name)
                self._kept.pop((agent.name, server.name), None)

    def break_line(self, agent: Process, server: Process, with_a_word: bool = True) -> None:
        """The connection of two processes is gone, if there is one; both are told."""
        line = self.line(agent, server)
        if line is None or line.broken:
            return
        line.broken = True
        for end in (agent, server):
            told = self._queue.now + self._rng.uniform(*(_TOLD[end.name[0]] if with_a_word else _UNHEARD))
            if with_a_word and not line.other(end).alive:
                told = max(told, line.arrived.get(end.name, 0.0))
            self._queue.schedule(told, self._tell, end, line)

    def _tell(self, end: Process, line: Line) -> None:
        if end.name in line.told:
            return
        line.told.add(end.name)
        if end is line.agent:
            self._queue.schedule(self._queue.now + self._rng.uniform(*_DIAL), self._connect, line.agent, line.server)
        self._arrive(end, Change(line, False))

    def _pairs(self, *names: str) -> list[tuple[Process, Process]]:
        """The pairs of an agent and a server in which all of these are."""
        return [(a, s) for a in self._agents for s in self._servers if set(names) <= {a.name, s.name}]

    # Messages

    def send(self, sender: Process, line: Line, message: Any) -> bool:
        """Send a message; False if it cannot be sent, and the sender knows that."""
        receiver, passage = line.other(sender), Passage()
        for fault in self._faults:
            if self._acts(fault, sender.name, receiver.name):
                passage.meet(fault.kind, self._rng.random, probability=fault.amount, jitter=fault.amount)
        if passage.is_refused:
            return False
        if line.broken and passage.delays:
            self._keep(sender, line, message)
            return True
        for delay in passage.delays:
            arrives = self._queue.now + self._rng.uniform(*_LATENCY)
            if delay:
                arrives += delay
            else:
                arrives = line.arrived[receiver.name] = max(arrives, line.arrived.get(receiver.name, 0.0))
            self._queue.schedule(arrives, self._deliver, receiver, line, message)
        return True

    def _acts(self, fault: ProcessFault, sender: str, receiver: str) -> bool:
        return fault.start <= self._queue.now < fault.stop and fault.where in ((), (sender, receiver))

    def _keep(self, sender: Process, line: Line, message: Any) -> None:
        """An agent's socket may keep for the next connection what it is told to send before it knows."""
        if sender is line.agent and self._rng.random() < 0.5:
            kept = self._kept.setdefault((line.agent.name, line.server.name), [])
            if len(kept) < _KEPT:
                kept.append(message)

    def _deliver(self, receiver: Process, line: Line, message: Any) -> None:
        if receiver.name in line.told or line.queued.get(receiver.name, 0) >= _QUEUE:
            return
        if self._say is not None:
            self._say(f"{line.other(receiver).name} > {receiver.name}: {describe(message)}")
        line.queued[receiver.name] = line.queued.get(receiver.name, 0) + 1
        self._arrive(receiver, (line, message))

    def _arrive(self, receiver: Process, item: Change | tuple[Line, Any]) -> None:
        if not receiver.alive:
            return
        receiver.inbox.append(item)
        if receiver.is_idle:
            receiver.go_on()


def describe(message: Any) -> str:
    """A message in words: its kind, and its numbers."""
    numbers = [f"{name} {value}" for name, value in vars(message).items() if name not in ("step", "sender", "action")]
    return " ".join([type(message).__name__.lower(), ", ".join(numbers)])
