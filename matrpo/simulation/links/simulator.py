"""Deterministic simulator in one thread: the agents' real consensus state machines, simulated network and clocks.

What happens is a function of a `History` alone. After every event all invariants of the link protocol are checked, and
at the end its liveness: once the last fault is over and every link has been tried once more, one more iteration must
go as if there had never been a fault.

Two things are as the layers below the protocol make them. A corrupt message that looks like a valid one never arrives:
the checksum on the wire stops it. The environment keeps the agents together: it begins an iteration when all have
finished the last, except for those that are dead or, if the history says so, paused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from matrpo.consensus.link import Link
from matrpo.consensus.message import LinkMessage, has_valid_header, has_valid_payload
from matrpo.consensus.peer import Peer
from matrpo.settings.config import GraphConsensusSettings
from matrpo.settings.sections import ConnectionSettings
from matrpo.simulation.events import EventQueue
from matrpo.simulation.links.faulty_network import LONGEST_LATENCY, FaultyNetwork
from matrpo.simulation.links.history import AGENT_FAULTS, Fault, History
from matrpo.simulation.links.invariants import Invariants
from matrpo.simulation.links.promptness import Promptness
from matrpo.simulation.links.simulated_agent import Average, LocalStep, Node
from matrpo.simulation.outcome import Outcome, Trace, Violation
from matrpo.topology.schedule import link_sequence

PeerFactory = Callable[..., Peer]
"""Makes an agent's consensus state machine from the arguments of `Peer`."""

_BETA = {"admm": 0.7, "averaging": 1.3}
_DEADLINE = 3.6
_RESEND = 2.0
_MEAN_INTERVAL = 0.1
_ROLLOUT = (0.1, 1.0)
_SPREADS = (0.03, 0.9)
"""Seconds after the first in which all agents end a rollout: in half of the iterations, as good as together."""

_RESTART = 0.02
_TOLD = 0.5
"""Probability that neighbours see a connection reset when an agent dies."""

_INBOX = 16
"""Capacity of a paused agent's message queue; more are lost."""

_PATIENCE = 500.0
"""Timeout of a simulation, in seconds after the last fault."""


def simulate(history: History, make_peer: PeerFactory = Peer, trace: Trace | None = None) -> Outcome:
    """Run a history to its end, or to its first violation."""
    return _Simulation(history, make_peer, trace).run()


class _Simulation:
    """State of one run of `simulate`."""

    def __init__(self, history: History, make_peer: PeerFactory, trace: Trace | None) -> None:
        self._history = history
        self._graph = history.graph
        self._make_peer = make_peer
        self._trace = trace
        self._rng = Random(history.noise)
        self._shape = (history.agents, history.samples)
        self._first = np.linspace(-1.0, 1.0, history.agents * history.samples, dtype=np.float32).reshape(self._shape)
        self._dtype = np.dtype(history.dtype)
        self._calm_at = history.calm_at
        self._queue = EventQueue()
        self._schedule = self._queue.schedule
        self._events = 0
        self._nodes = [Node(q, self._new_peer(q, 0), clock) for q, clock in enumerate(history.clocks)]
        averages = history.consensus == "averaging"
        self._local_step = Average if averages else LocalStep
        self._invariants = Invariants(
            [node.peer for node in self._nodes], _BETA[history.consensus], _DEADLINE, averages
        )
        slowest = min(rate for _, rate in history.clocks)
        self._promptness = Promptness(2 * LONGEST_LATENCY, _RESEND / slowest)
        self._network = FaultyNetwork(history, self._rng)
        self._iteration = -1
        self._calm = False
        """The present iteration began after the last fault."""
        self._untried = set(range(len(history.links)))
        """Links not activated since the last fault."""
        self._expected: list[int] | None = None
        """In the last iteration: the count of commits that each agent must reach."""
        self._finished = False

    def _new_peer(self, agent: int, incarnation: int) -> Peer:
        return self._make_peer(
            agent,
            self._graph,
            self._history.noise,
            GraphConsensusSettings(
                consensus=self._history.consensus,
                beta=_BETA[self._history.consensus],
                admm_iterations=self._history.k,
                schedule=self._history.schedule,
                wire_dtype=self._history.dtype,
            ),
            ConnectionSettings(link_deadline=_DEADLINE, link_resend=_RESEND),
            incarnation,
            mean_interval=_MEAN_INTERVAL,
        )

    # The loop

    def run(self) -> Outcome:
        """Run the history; a violation ends it."""
        try:
            self._loop()
        except Violation as violation:
            self._say(str(violation))
            return Outcome(self._events, violation)
        return Outcome(self._events, None)

    def _loop(self) -> None:
        for fault in self._history.faults:
            if fault.kind in AGENT_FAULTS:
                self._schedule(fault.start, self._strike, fault)
                self._schedule(fault.stop, self._lift, fault)
        self._next_iteration()
        while not self._finished and self._queue.step(self._calm_at + _PATIENCE):
            pass
        if not self._finished and any(node.alive for node in self._nodes):
            waiting = [node.agent for node in self._nodes if node.alive and node.phase == "consensus"]
            raise Violation("liveness", f"agents {waiting} never finish iteration {self._iteration}")

    @property
    def _now(self) -> float:
        return self._queue.now

    def _say(self, text: str) -> None:
        if self._trace is not None:
            self._trace(self._now, text)

    def _say_message(self, what: str, m: LinkMessage, receiver: int) -> None:
        if self._trace is not None:
            states = "" if m.u is None else f" from {m.tip}/{m.base}"
            answered = " answered" if m.answered else ""
            route = f"{m.sender}.{m.incarnation} > {receiver}"
            self._say(f"{what}{route}: {m.kind} ({m.iteration}, {m.k}) of link {m.link}{states}{answered}")

    # Agents

    def _act(self, node: Node, action: Callable[..., None], *arguments: Any, ticked: bool = False) -> None:
        """Apply an event to an agent's state machine, send its outgoing messages, and check the invariants."""
        self._events += 1
        now = node.now(self._queue.now)
        self._check_promptness(node)
        try:
            action(*arguments, now)
            wake = node.peer.next_event()
        except Exception as error:
            raise Violation("I5", f"agent {node.agent} raises {type(error).__name__}: {error}") from error
        outbox = node.peer.take_outbox()
        if len(outbox) > 4 * (self._history.k + len(node.peer.links)):
            raise Violation("I5", f"agent {node.agent} sends {len(outbox)} messages at once")
        for receiver, message in outbox:
            self._invariants.sent(message, now)
            self._transmit(receiver, message)
        self._invariants.changed(node.peer, now, ticked, wake)
        self._note_waits(node)
        if node.sleep_until(wake, self._queue.now):
            self._schedule(node.wake_at, self._wake, node)
        if node.phase == "consensus" and node.peer.done:
            node.phase = "waiting"
            self._say(f"agent {node.agent} has finished iteration {node.iteration}")
            self._next_iteration()

    def _check_promptness(self, node: Node) -> None:
        for e in self._promptness.waits_of(node.agent):
            other = self._nodes[node.peer.links[e].neighbour]
            if other.alive and not other.paused:
                self._promptness.check(e, self._queue.now)

    def _note_waits(self, node: Node) -> None:
        """Note which end of each of an agent's links is open though the other has left what is open there."""
        for e, link in node.peer.links.items():
            other = self._nodes[link.neighbour].peer.links[e]
            is_open, is_other_open = link.is_open, other.is_open
            if is_open or is_other_open:
                ours, theirs = (link.iteration, link.k), (other.iteration, other.k)
                if is_open and (theirs > ours or (theirs == ours and not is_other_open)):
                    self._note_wait(node.agent, link, theirs == ours)
                    continue
                if is_other_open and (ours > theirs or (theirs == ours and not is_open)):
                    self._note_wait(link.neighbour, other, theirs == ours)
                    continue
            self._promptness.forget(e)

    def _note_wait(self, agent: int, end: Link, is_there: bool) -> None:
        position = (end.iteration, end.k)
        said = is_there and not self._invariants.has_committed(end.neighbour, end.number, position)
        self._promptness.note(agent, end, said, self._queue.now)

    def _disturb(self, node: Node) -> None:
        for e in node.peer.links:
            self._promptness.disturb(e, self._now)

    def _wake(self, node: Node) -> None:
        if node.alive and not node.paused and node.wake_at <= self._now:
            self._act(node, node.peer.tick, ticked=True)

    def _begin(self, node: Node) -> None:
        if not node.alive or node.paused or node.begin_at > self._now:
            return
        self._say(f"agent {node.agent} begins iteration {node.iteration}")
        node.phase, node.begin_at, node.has_begun = "consensus", math.inf, True
        self._invariants.began(node.peer, node.iteration)
        start = node.agent + 7 * node.iteration + 31 * node.incarnation
        self._act(node, node.peer.begin, node.iteration, self._local_step(start, self._first), self._shape)

    def _begin_at(self, node: Node, time: float) -> None:
        node.phase, node.begin_at = "rollout", time
        self._schedule(time, self._begin, node)

    # Messages

    def _transmit(self, receiver: int, message: LinkMessage) -> None:
        now, arrives_whole = self._queue.now, False
        arrivals = self._network.send(receiver, message, now)
        for latency, arriving in arrivals:
            arrives_whole |= arriving is message
            if latency > LONGEST_LATENCY:
                self._promptness.disturb(message.link, now + latency)
            self._schedule(now + latency, self._deliver, self._nodes[receiver], message, arriving)
        if not arrivals:
            self._say_message("lost: ", message, receiver)
        if not arrives_whole:
            self._promptness.disturb(message.link, now)

    def _deliver(self, node: Node, sent: LinkMessage, arriving: LinkMessage) -> None:
        if not node.alive:
            return
        if node.paused:
            if len(node.inbox) < _INBOX:
                node.inbox.append((sent, arriving))
        elif arriving is sent:
            self._say_message("", sent, node.agent)
            self._take_in(node, sent)
        elif not self._is_valid(node, sent, arriving, self._shape):
            self._say_message("corrupt: ", sent, node.agent)
            if not node.has_begun and self._is_valid(node, sent, arriving, None):  # It does not know the shape yet.
                self._take_in(node, arriving)
                return
            dropped = node.peer.counters.drops
            self._act(node, node.peer.receive, arriving)
            if node.peer.counters.drops == dropped:
                raise Violation("I5", f"agent {node.agent} does not count a corrupt message")

    def _take_in(self, node: Node, message: LinkMessage) -> None:
        self._invariants.received(node.agent, message)
        self._promptness.heard(node.agent, message)
        self._act(node, node.peer.receive, message)

    def _is_valid(self, node: Node, sent: LinkMessage, arriving: LinkMessage, shape: tuple[int, int] | None) -> bool:
        return (
            has_valid_header(arriving, node.peer.last_k)
            and (arriving.sender, arriving.link) == (sent.sender, sent.link)
            and has_valid_payload(arriving, self._dtype, shape)
        )

    # Faults of agents

    def _strike(self, fault: Fault) -> None:
        """Begin a fault of an agent: pause it, or kill its process."""
        node = self._nodes[fault.where[0]]
        if not node.alive or (fault.kind == "stop" and node.paused):
            return
        self._events += 1
        self._say(f"agent {node.agent} is {'paused' if fault.kind == 'stop' else 'killed'}")
        if fault.kind == "stop":
            node.paused = True
        else:
            node.alive = False
            self._break_connections(node)
        self._next_iteration()

    def _break_connections(self, node: Node) -> None:
        """Reset a dead process's connections, unless its whole host is gone and neighbours see nothing."""
        if self._rng.random() < _TOLD:
            for neighbour in self._graph.neighbours(node.agent):
                latency = self._network.latency()
                self._schedule(self._now + latency, self._lose, self._nodes[neighbour], node.agent)

    def _lose(self, node: Node, neighbour: int) -> None:
        if node.alive and not node.paused:
            self._say(f"agent {node.agent} loses the connection to agent {neighbour}")
            self._invariants.lost(node.agent, neighbour)
            self._disturb(node)
            self._act(node, node.peer.lose, neighbour)

    def _lift(self, fault: Fault) -> None:
        """End a fault of an agent: resume it, or restart its process."""
        node = self._nodes[fault.where[0]]
        if fault.kind == "stop" and node.alive and node.paused:
            self._resume(node)
        elif fault.kind != "stop" and not node.alive:
            self._restart(node, resumes=fault.kind == "reset" and node.phase != "waiting")

    def _resume(self, node: Node) -> None:
        self._say(f"agent {node.agent} goes on")
        self._events += 1
        node.paused = False
        self._disturb(node)
        inbox, node.inbox = node.inbox, []
        for sent, arriving in inbox:
            self._deliver(node, sent, arriving)
        self._wake(node)
        self._begin(node)
        self._next_iteration()

    def _restart(self, node: Node, resumes: bool) -> None:
        self._say(f"agent {node.agent} is started again")
        self._events += 1
        node.incarnation += 1
        node.start(self._new_peer(node.agent, node.incarnation))
        self._invariants.started(node.peer, node.incarnation)
        self._disturb(node)
        if resumes:
            self._begin_at(node, self._now + _RESTART)
            return
        if self._iteration >= 0:
            self._act(node, node.peer.sit_out, self._iteration)
        self._next_iteration()

    # The environment

    def _next_iteration(self) -> None:
        """Begin an iteration if all agents that take part in the run have finished the last."""
        leave = self._history.absent == "leave" and self._now < self._calm_at
        members = [node for node in self._nodes if node.alive and not (leave and node.paused)]
        if not members or any(node.paused or node.phase != "waiting" for node in members):
            return
        if self._now >= self._calm_at and self._iteration + 1 >= self._history.iterations:
            self._look_back()
        if self._finished:
            return
        self._iteration += 1
        ends, spread = self._now + self._rng.uniform(*_ROLLOUT), self._rng.choice(_SPREADS)
        for node in members:
            node.iteration = self._iteration
            self._begin_at(node, ends + self._rng.uniform(0.0, spread))

    def _look_back(self) -> None:
        """After the last fault: note which links were tried since; when all were, the next iteration is the last."""
        if self._expected is not None:
            self._check_liveness(self._expected)
            self._finished = True
            return
        if self._calm:
            self._untried.difference_update(self._activations(self._iteration))
        self._calm = True
        if not self._untried:
            self._expected = expected = [node.peer.counters.commits for node in self._nodes]
            for e in self._activations(self._iteration + 1):
                ends = self._history.links[e]
                for q in ends if all(self._nodes[q].alive for q in ends) else ():
                    expected[q] += 1

    def _activations(self, iteration: int) -> list[int]:
        """The links that are activated in an iteration, in any order."""
        links, k, kind = len(self._history.links), self._history.k, self._history.schedule
        if kind == "poisson":
            return list(range(links)) * -(-k // max(1, links))
        return [int(e) for e in link_sequence(kind, self._graph, k, self._history.noise, iteration)]

    def _check_liveness(self, expected: list[int]) -> None:
        for node in self._nodes:
            commits = node.peer.counters.commits
            if node.alive and commits != expected[node.agent]:
                missing = expected[node.agent] - commits
                raise Violation("liveness", f"agent {node.agent} misses {missing} commits after the last fault")
