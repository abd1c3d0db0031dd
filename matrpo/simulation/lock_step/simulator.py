"""Deterministic simulator of the lock step in one thread: real machines, simulated processes, disks and connections.

What happens is a function of a `LockStepHistory` alone. After every event the invariants are checked, and at the end
that every life ends: once the last fault is over, all agents and servers that are there come to the end of the run, and
from the first iteration on in which all have learnt, all learn in each.
"""

from __future__ import annotations

from collections import defaultdict
from random import Random

from matrpo.decentralized.lock_step.client import Client
from matrpo.decentralized.lock_step.server import Server
from matrpo.simulation.events import EventQueue
from matrpo.simulation.lock_step.history import PROCESS_FAULTS, LockStepHistory, ProcessFault
from matrpo.simulation.lock_step.invariants import Invariants, Lineage
from matrpo.simulation.lock_step.member import Disk, Member
from matrpo.simulation.lock_step.network import Network
from matrpo.simulation.lock_step.processes import ClientFactory, ServerFactory, SimulatedAgent, SimulatedServer
from matrpo.simulation.outcome import Outcome, Trace, Violation

_PATIENCE = 90.0
"""Timeout of a simulation, in seconds after the last fault."""

_UNHEARD_OF = 2.5
"""Seconds after which a process that stands still counts as lost."""

_WITH_A_WORD = 0.7
"""Probability that the ends of a dead process's connections are told at once: its host is there."""


def simulate_lock_step(
    history: LockStepHistory,
    make_server: ServerFactory = Server,
    make_client: ClientFactory = Client,
    trace: Trace | None = None,
) -> Outcome:
    """Run a history to its end, or to its first violation."""
    return _Simulation(history, make_server, make_client, trace).run()


class _Simulation:
    """State of one run of `simulate_lock_step`."""

    def __init__(
        self, history: LockStepHistory, make_server: ServerFactory, make_client: ClientFactory, trace: Trace | None
    ) -> None:
        self._history = history
        self._trace = trace
        self._rng = Random(history.noise)
        self._queue = EventQueue()
        self._invariants = Invariants(history.rules, self._states)
        parts = (history, self._queue, self._rng, self._invariants, self._end)
        self._agents = [SimulatedAgent(f"a{agent}", *parts) for agent in range(history.agents)]
        self._servers = [SimulatedServer(f"s{server}", *parts) for server in range(history.servers)]
        say = self._say if trace is not None else None
        network = Network(history, self._queue, self._rng, self._agents, self._servers, say)
        for agent in self._agents:
            agent.network, agent.make = network, make_client
        for server in self._servers:
            server.network, server.make = network, make_server
        self._network = network
        self._by_name: dict[str, Member] = {member.name: member for member in (*self._agents, *self._servers)}
        self._down: dict[str, int] = defaultdict(int)
        """By how many faults a process is not to run."""
        self._told: set[str] = set()
        """The agents that a server has told after the last fault that the run is over."""
        self._aborted = False
        self._finished = False

    # The loop

    def run(self) -> Outcome:
        """Run the history; a violation ends it."""
        try:
            self._loop()
        except Violation as violation:
            self._say(str(violation))
            return Outcome(self._invariants.events, violation)
        return Outcome(self._invariants.events, None)

    def _loop(self) -> None:
        for member in self._by_name.values():
            self._queue.schedule(self._rng.uniform(0.0, 0.3), self._start, member)
        for fault in self._history.faults:
            if fault.kind in (*PROCESS_FAULTS, "cut"):
                self._queue.schedule(fault.start, self._strike, fault)
                self._queue.schedule(fault.stop, self._lift, fault)
        until = self._history.calm_at + _PATIENCE
        while not self._finished and self._queue.step(until):
            pass
        self._check_ends()
        if not self._aborted:
            self._check_iterations()
            self._check_lies()

    def _say(self, text: str) -> None:
        if self._trace is not None:
            self._trace(self._queue.now, text)

    def _states(self) -> dict[int, Lineage]:
        return {agent.number: agent.state for agent in self._agents if not agent.lies}

    # Faults

    def _strike(self, fault: ProcessFault) -> None:
        """Begin a fault."""
        self._invariants.events += 1
        self._say(f"{fault} begins")
        if fault.kind == "cut":
            self._network.cut(fault.where)
            return
        member = self._by_name[fault.where[0]]
        if fault.kind == "stop":
            member.paused += 1
            self._queue.schedule(self._queue.now + _UNHEARD_OF, self._miss, member)
        elif fault.kind == "silence":
            member.silent += 1
        elif fault.kind == "slow":
            self._agents[member.number].extra += fault.amount
        elif fault.kind == "liar":
            self._begin_to_lie(self._agents[member.number])
        else:
            self._down[member.name] += 1
            if member.alive:
                member.fuse = int(fault.amount)
                self._queue.schedule(self._queue.now + 1.0, self._blow, member, member.disk.incarnation)

    def _lift(self, fault: ProcessFault) -> None:
        """End a fault."""
        self._invariants.events += 1
        self._say(f"{fault} ends")
        if fault.kind == "cut":
            self._network.mend(fault.where)
            return
        member = self._by_name[fault.where[0]]
        if fault.kind == "stop":
            member.paused -= 1
            self._resume(member)
        elif fault.kind == "silence":
            member.silent -= 1
            self._resume(member)
        elif fault.kind == "slow":
            self._agents[member.number].extra -= fault.amount
        elif fault.kind == "liar":
            self._stop_lying(self._agents[member.number])
        else:
            self._down[member.name] -= 1
            self._blow(member, member.disk.incarnation)
            if fault.kind == "lost" and not member.alive and member.how is None:
                member.disk = Disk()
            self._start(member)

    def _blow(self, member: Member, incarnation: int) -> None:
        """Kill a process that was to die, if it has not sent enough to die of that."""
        if member.alive and member.fuse is not None and member.disk.incarnation == incarnation:
            self._end(member, None)

    def _miss(self, member: Member) -> None:
        if member.alive and member.paused:
            self._network.gone(member, with_a_word=False)

    def _resume(self, member: Member) -> None:
        if member.alive and not member.paused:
            self._network.dial(member)
        if member.is_idle:
            member.go_on()

    def _begin_to_lie(self, agent: SimulatedAgent) -> None:
        if agent.how is not None:
            return
        if agent.alive:
            self._end(agent, None)
        agent.lies = True
        self._invariants.liars.add(agent.number)
        self._invariants.have_lied.add(agent.number)
        self._start(agent)

    def _stop_lying(self, agent: SimulatedAgent) -> None:
        if agent.lies:
            if agent.alive:
                self._end(agent, None)
            agent.lies = False
            self._invariants.liars.discard(agent.number)
            self._start(agent)

    # Processes

    def _start(self, member: Member) -> None:
        if not member.alive and member.how is None and self._down[member.name] == 0:
            self._say(f"{member.name} is started")
            member.start()

    def _end(self, member: Member, how: str | None) -> None:
        """A process has ended by itself, somehow, or is killed."""
        if how is not None and isinstance(member, SimulatedServer):
            self._aborted |= how == "aborted"
            self._note_told(member)
        self._say(f"{member.name} {how or 'is killed'}")
        member.alive, member.how = False, how
        self._network.gone(member, with_a_word=how is not None or self._rng.random() < _WITH_A_WORD)
        lives = [m for m in self._by_name.values() if m.how is None and not (isinstance(m, SimulatedAgent) and m.lies)]
        self._finished = not lives

    def _note_told(self, server: SimulatedServer) -> None:
        if self._queue.now < self._history.calm_at:
            return
        for address in server.machine.addresses.values():
            for agent in self._agents:
                line = self._network.line(agent, server)
                if line is not None and line.address == address and not line.broken:
                    self._told.add(agent.name)

    # The end

    def _check_ends(self) -> None:
        """L6: whoever is there comes to an end.

        These have nobody to end with: an agent that comes when a server has ended, which does not tell it then; a
        server that is waited for by such an agent; one that was started when the rule `abort` has ended the run for
        all. Under the rule `wait`, a server waits for the goodbye of an agent that has ended since another server, or
        an earlier process of this one, said so; and so does who comes to that server.
        """
        there = [agent for agent in self._agents if agent.alive and not agent.lies]
        is_deserted = not there and all(agent.how is None for agent in self._agents)
        if is_deserted or self._waits_for_a_first_start(there):
            return
        served = any(server.how or self._waits_for_goodbyes(server) for server in self._servers)
        for agent in there:
            if agent.name in self._told or not served:
                raise Violation("L6", f"agent {agent.number} does not end")
        for server in self._servers:
            connected = server.machine.membership.connected
            has_guests = served and not connected.isdisjoint(agent.number for agent in there)
            unvisited = self._aborted and not server.has_begun
            if server.alive and not (has_guests or unvisited or self._waits_for_goodbyes(server)):
                raise Violation("L6", f"server {server.number} does not end")

    def _waits_for_goodbyes(self, server: SimulatedServer) -> bool:
        """Whether a server waits, by the rule `wait`, for agents that have ended and not said so to it."""
        gone = {agent.number for agent in self._agents if agent.how}
        return self._history.rule == "wait" and server.alive and not gone <= server.machine.membership.finished

    def _waits_for_a_first_start(self, there: list[SimulatedAgent]) -> bool:
        """Whether a server waits for all, and one is not coming: so a run begins, however long that takes.

        A server that was started again knows that the run has begun from what it has ended, or from two agents that
        have heard of an attempt; one, if that is alone.
        """
        if len(there) == len(self._agents):
            return False
        lying = [agent for agent in self._agents if agent.alive and agent.lies]
        knowing = sum(agent.has_heard for agent in there)
        told = 0 < knowing >= min(2, len(there) + len(lying))
        return not told and any(not (server.has_begun or server.disk.ended) for server in self._servers)

    def _check_iterations(self) -> None:
        """L6: from the first iteration on in which all have learnt after the last fault, all learn in each.

        Under the rule `wait`, all wait for a liar too.
        """
        calm = self._history.calm_at
        if self._history.rule == "wait" and self._invariants.liars:
            return
        steady = [agent for agent in self._agents if agent.how is not None and agent.started_at <= calm]
        together = False
        for iteration in range(1, self._history.iterations + 1):
            missing = [agent.number for agent in steady if agent.learnt_at.get(iteration, -1.0) < calm]
            if together and missing:
                raise Violation("L6", f"agents {missing} do not learn in iteration {iteration}, after the last fault")
            together |= bool(steady) and not missing

    def _check_lies(self) -> None:
        """L3: where nothing fails but one agent, which lies, the others learn in every iteration.

        Not so of two agents with several servers: the liar is half of those that are there. It is done at one server,
        and lets the other agent wait at the next; that one is then as late for the first.
        """
        history = self._history
        if history.rule != "noop" or any(fault.kind != "liar" for fault in history.faults):
            return
        if history.agents == 2 and history.servers > 1:
            return
        for agent in self._agents:
            if agent.number not in self._invariants.have_lied and len(agent.learnt) != history.iterations:
                raise Violation("L3", f"agent {agent.number} learns from {sorted(agent.learnt)} beside a liar")
