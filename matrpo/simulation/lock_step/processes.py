"""Simulated agents and environment servers: their real sides of the lock step, with disks, and numbers to learn from.

They do with these machines what `launch/processes/agent_process.py` and `env_server.py` do, in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

from matrpo.decentralized.lock_step.client import REPEAT, Client
from matrpo.decentralized.lock_step.messages import Action, Observation, Outdated, Stop
from matrpo.decentralized.lock_step.server import Server
from matrpo.simulation.lock_step.invariants import Learnt, Lineage
from matrpo.simulation.lock_step.liar import lie
from matrpo.simulation.lock_step.member import Member
from matrpo.simulation.lock_step.network import Change, Line
from matrpo.simulation.outcome import Violation

_GOODBYES = 3
_MOST_AT_ONCE = 1000
"""Limit of what an agent does at one instant."""

ServerFactory = Callable[..., Server]
"""Makes a server's side of the lock step from the arguments of `Server`."""

ClientFactory = Callable[..., Client]
"""Makes an agent's side from the arguments of `Client`."""


class _Ended(Exception):  # noqa: N818
    """Raised when a server says that the run is over, or ends early."""


class _Outdated(Exception):  # noqa: N818
    """Raised when a server knows of a later incarnation."""

    def __init__(self, incarnation: int) -> None:
        super().__init__(incarnation)
        self.incarnation = incarnation


class SimulatedServer(Member):
    """An environment server: see `EnvironmentServer`. A step's observation is a digest of all that has happened.

    Attributes:
        machine: its side of the lock step.
        has_begun: it has begun an iteration.
    """

    make: ServerFactory
    machine: Server
    has_begun = False

    def start(self) -> None:
        """Start the process, from what is on its disk."""
        super().start()
        number = self.disk.begin_incarnation()
        back = number > 1 and bool(self.disk.ended)
        ended = self.disk.ended[-1] if back else 0
        self._attempt = number
        self._state = hash((self.number, number if back else 0))
        self._lines: dict[bytes, Line] = {}
        self.has_begun = False
        steps: Any = [(self._state, {})] * self.history.agents
        self.machine = self.make(self.history.rules, steps, self.disk.newest + 1, number, ended, back)
        self.invariants.started(self.number, self.machine)
        self.network.dial(self)
        self.act()

    def act(self) -> None:
        """Handle what has arrived, then begin, step and send until others have to act."""
        for item in self.take_inbox():
            address = item.line.address if isinstance(item, Change) else item[0].address
            if not isinstance(item, Change):
                self._lines[address] = item[0]
                self.invariants.call(self.number, "receive", address, item[1])
            elif self._lines.pop(address, None) and address in self.machine.addresses.values():
                self.invariants.call(self.number, "lose", address)
        while self.alive and self._advance():
            pass
        if self.alive:
            self.sleep_until(self.machine.next_event())

    def _advance(self) -> bool:
        """One round of the server's loop; returns whether there is another at once."""
        machine = self.machine
        self.invariants.tick(self.number, self.now)
        self._flush()
        if not self.alive or machine.t is None:
            return False
        if not self.has_begun:
            self.has_begun = True
            self.disk.rewind(machine.iteration - 1)
        if machine.over:
            self._say_goodbye(Stop(finished=True), "finished")
        elif machine.complete:
            self._step()
            return True
        return False

    def _step(self) -> None:
        machine, iteration = self.machine, self.machine.iteration
        joint = dict(machine.actions)
        self._state = hash((self._state, *sorted(joint.items())))
        if self.invariants.call(self.number, "stepped", [(self._state, joint)] * self.history.agents):
            self.disk.record(iteration, {}, self.history)

    def _flush(self) -> None:
        machine = self.machine
        machine.take_news()
        machine.take_refused()
        if machine.end is not None:
            self._say_goodbye(Stop(finished=False), "aborted")
            return
        if machine.attempt != self._attempt:
            self._attempt = self.disk.begin_incarnation(machine.attempt)
        for address, _, answer in machine.take_outbox():
            self._send(address, answer)

    def _say_goodbye(self, word: Stop, how: str) -> None:
        for address in self.machine.addresses.values():
            self._send(address, word)
        self.end(self, how)

    def _send(self, address: bytes, message: Observation | Outdated | Stop) -> None:
        if (line := self._lines.get(address)) is not None:
            self.transmit(line, message)


class SimulatedAgent(Member):
    """An agent: see `AgentProcess`. It learns by noting what it has observed.

    Attributes:
        client: its side of the lock step.
        has_heard: it has been told of an attempt since it was started.
        learnt: what it has learnt from, by iteration.
        started_at: when it was started.
        learnt_at: when it has learnt from an iteration since then, if it took part at all servers by then.
    """

    make: ClientFactory
    client: Client
    has_heard = False
    lies = False
    """It is a liar."""

    extra = 0.0
    """Seconds that its updates take more."""

    def start(self) -> None:
        """Start the process, from what is on its disk."""
        super().start()
        self.started_at, self.learnt_at = self.queue.now, dict[int, float]()
        self._life = lie(self) if self.lies else self._live()
        self.act()

    @property
    def state(self) -> Lineage:
        """What it has learnt from, or would have if it came back."""
        return self.learnt if self.alive or self.how else self.disk.checkpoints.get(self.disk.newest, {})

    def act(self) -> None:
        """Go on where it has waited."""
        try:
            self.sleep_until(next(self._life))
        except StopIteration:
            self.end(self, self.how)

    def _live(self) -> Iterator[float]:
        """The process from its start to its end; it yields until when it waits for messages."""
        at_least = 1
        while self.how is None:
            try:
                yield from self._run(at_least)
            except _Outdated as later:
                at_least = later.incarnation + 1

    def _run(self, at_least: int) -> Iterator[float]:
        incarnation = self.disk.begin_incarnation(at_least)
        self._newest = self.disk.newest
        self.learnt: Lineage = dict(self.disk.checkpoints.get(self._newest, {}))
        self._taken_part = self.has_heard = False
        self._sent_at, self._at_once = -1.0, 0
        self._lines: dict[int, Line] = {}
        self.client = self.make(self.number, incarnation, self.history.servers)
        self.network.dial(self)
        try:
            starts = yield from self._begin()
            while starts[0].iteration <= self.history.iterations:
                starts = yield from self._iterate(starts)
            yield from self._say_goodbye()
        except _Ended as word:
            self.how = str(word)
        except _Outdated:
            if not self._taken_part:
                self.network.hang_up(self)
                raise
            self.how = "replaced"

    def _begin(self) -> Generator[float, None, list[Observation]]:
        self.client.wanted = self._newest + 1
        yield from self._join()
        starts = self.client.agreed()
        self.disk.rewind(starts[0].iteration - 1)
        self._taken_part = True
        return starts

    def _iterate(self, starts: list[Observation]) -> Generator[float, None, list[Observation]]:
        iteration = starts[0].iteration
        self.client.wanted = iteration
        last = yield from self._roll_out(starts)
        if last is None:
            yield from self._join()
            return self.client.agreed()
        self.client.wanted = iteration + 1
        learnt = Learnt(tuple(start.attempt for start in last), tuple(map(tuple, self._seen)))
        self.invariants.learns(self.number, iteration, learnt)
        self.learnt[iteration] = learnt
        if self.invariants.is_steady(self.number, learnt):
            self.learnt_at[iteration] = self.queue.now
        yield from self._compute(self.rng.uniform(0.0, self.history.update) + self.extra)
        until = self.now + self.rng.uniform(0.0, self.history.update)
        while self.now < until:
            yield from self._pump(until)
        self.disk.record(iteration, self.learnt, self.history)
        return [replace(observation, iteration=iteration + 1, t=0) for observation in last]

    def _compute(self, seconds: float) -> Iterator[float]:
        """Look at nothing for a while."""
        self.busy_until = self.queue.now + seconds
        self.queue.schedule(self.busy_until, self._wake_up)
        while self.queue.now < self.busy_until:
            yield math.inf

    def _wake_up(self) -> None:
        if self.is_idle:
            self.go_on()

    def _roll_out(self, starts: list[Observation]) -> Generator[float, None, list[Observation] | None]:
        news, last = dict(enumerate(starts)), dict[int, Observation]()
        self._seen: list[list[int]] = [[] for _ in starts]
        acted: dict[int, int] = {}
        while True:
            for server, observation in sorted(news.items()):
                step: Any = observation.step
                state, joint = step
                self.invariants.observes(self.number, joint, acted.get(server))
                self._seen[server].append(state)
                if observation.t == self.history.steps:
                    last[server] = observation
                    continue
                where = (observation.attempt, observation.iteration, observation.t)
                action: Any = hash((self.number, self.disk.incarnation, server, *where))
                acted[server] = action
                self.client.act(server, Action(self.number, *where, action), self.now)
                self._send()
            if len(last) == len(starts):
                return [last[server] for server in range(len(starts))]
            while not (self.client.answered or self.client.broken()):
                yield from self._pump(self.client.next_event())
            if not (news := self.client.take_answers()):
                return None

    def _join(self) -> Iterator[float]:
        report_at, patience = self.now + REPEAT, REPEAT
        while not self.client.agreed():
            late = self.now >= report_at
            if late:
                patience *= 2
                report_at = self.now + patience
            self.client.ask_to_begin(again=late)
            self._send()
            yield from self._pump(report_at)

    def _say_goodbye(self) -> Iterator[float]:
        for _ in range(_GOODBYES):
            self.client.say_goodbye()
            self._send()
            until = self.now + REPEAT
            while self.now < until:
                yield from self._pump(until)
        self.how = "finished alone"

    # The network

    def _pump(self, until: float) -> Iterator[float]:
        """Wait until something arrives, or a time, or something is due to be sent again; then handle it."""
        yield min(until, self.client.next_event())
        self._exchange()

    def _exchange(self) -> None:
        inbox = self.take_inbox()
        for item in inbox:
            if isinstance(item, Change):
                self._look(item)
        for item in inbox:
            if not isinstance(item, Change):
                self.has_heard |= isinstance(item[1], Observation)
                self.invariants.receive(self.client, item[0].server.number, item[1])
        client = self.client
        if client.stopped or client.over:
            raise _Ended("stopped" if client.stopped else "finished")
        if client.outdated is not None:
            raise _Outdated(client.outdated)
        client.tick(self.now)
        self._send()

    def _look(self, change: Change) -> None:
        """A connection has come, which begins with a hello, or gone."""
        server = change.line.server.number
        if change.connected:
            self._lines[server] = change.line
            self.client.hello(server)
        else:
            self._lines.pop(server, None)

    def _send(self) -> None:
        client = self.client
        self._at_once = self._at_once + 1 if self.queue.now == self._sent_at else 0
        self._sent_at = self.queue.now
        if self._at_once > _MOST_AT_ONCE:
            raise Violation("L6", f"agent {self.number} acts without end")
        for server, message in client.take_outbox():
            line = self._lines.get(server)
            if line is None or not self.transmit(line, message):
                client.not_sent(server, message, line is not None, self.now)
