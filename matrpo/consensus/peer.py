"""Consensus state machine of one of N agents: links, schedule and local steps (log ratios on M samples), without I/O.

Algorithm 1 of Li & He as seen by one agent. The agent is in at most one activation at a time: it takes a local step
from its links' latest states, opens the activation with the result, and turns to the next one when that is over.

What always holds with averaging, besides I1 to I5 of `link`:

- I6 Whatever was lost, the sum over all agents of what they average is that of what they brought, as often as the ends
  of every link are in the same state: the links' duals count once with either sign.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from matrpo.consensus import admm
from matrpo.consensus.link import Link
from matrpo.consensus.link_types import Counters, LinkSettings
from matrpo.consensus.message import LinkMessage
from matrpo.consensus.schedules import Initiator, PoissonSchedule, Responder, Schedule, SeededSchedule
from matrpo.settings.config import GraphConsensusSettings
from matrpo.settings.sections import ConnectionSettings
from matrpo.topology.graph import CommunicationGraph
from matrpo.topology.schedule import PoissonClock, link_sequence, positions_of

Step = Callable[[np.ndarray], np.ndarray]
"""The local step: maps the consensus term of the agent's links to log ratios; both (N, M) float32.

With ADMM the term is sum_e (beta ubar_e - C_e^q y_e), added to the advantage; the last step is that of the last
activation. With averaging it is -sum_e C_e^q y_e, added to the agent's own ratios; after the last activation there is
one step more, which tells the agent the average.
"""


class Peer:
    """The consensus state machine of one agent.

    Feed it with every message and with the time; send what `take_outbox` gives. It answers its neighbours also
    after it is done, until the next `begin`, so go on feeding it. Times are seconds on any clock that never goes back.

    Args:
        agent: this agent's id.
        graph: the communication graph.
        run_seed: the run's seed, from which the schedules are derived.
        consensus: beta, K and the schedule.
        connections: how long links wait.
        incarnation: grows each time this agent's process is started.
        mean_interval: seconds between two activations of a link, on average; for `poisson`.

    Attributes:
        counters: what happened on the links.
        done: whether this iteration's consensus is over for this agent.
        last_k: largest activation number of an iteration.
        activations: those of this iteration that this agent has turned to.
    """

    def __init__(
        self,
        agent: int,
        graph: CommunicationGraph,
        run_seed: int,
        consensus: GraphConsensusSettings,
        connections: ConnectionSettings,
        incarnation: int = 0,
        mean_interval: float = 0.02,
    ) -> None:
        self.agent = agent
        self.done = False
        self.activations = 0
        self._graph = graph
        self._run_seed = run_seed
        self._activations = consensus.admm_iterations
        self._beta = consensus.beta
        self._averages = consensus.consensus == "averaging"
        self._sequence_kind = consensus.schedule
        self._poisson = consensus.schedule == "poisson"
        self._mean_interval = mean_interval
        self._share = -(-self._activations // max(1, len(graph.links)))
        self._refusals = 100 + 10 * self._share
        self.last_k = self._share + self._refusals if self._poisson else self._activations
        self._settings = LinkSettings(
            agent,
            incarnation,
            self._beta,
            self.last_k,
            np.dtype(consensus.wire_dtype),
            deadline=connections.link_deadline,
            resend=connections.link_resend,
        )
        self._outbox: list[tuple[int, LinkMessage]] = []
        self.link_counters = {e: Counters() for e in graph.links_of(agent)}
        self._strangers = Counters()
        self.links = {
            e: Link(e, graph.other_end(e, agent), graph.sign(e, agent), self._settings, self._outbox, counters)
            for e, counters in self.link_counters.items()
        }
        self._schedule: Schedule | None = None

    def begin(self, iteration: int, step: Step, shape: tuple[int, int], now: float) -> None:
        """Start the consensus of an iteration, later than all before; `shape` is that of what is sent, (N, M).

        An agent that gets no activation takes one step at the end, without a neighbour's part: it then learns alone.
        """
        self.done = False
        self.activations = 0
        self._step = step
        self._stepped = False
        self._shape = shape
        self._current: Link | None = None
        for link in self.links.values():
            link.begin(iteration, shape, now)
        self._schedule = self._make_schedule(iteration, now)
        self._beat_at = now + self._settings.resend
        self._advance(self._schedule, now)

    def receive(self, message: LinkMessage, now: float) -> None:
        """Handle a message from a neighbour; an invalid one is dropped and counted. Never raises by itself."""
        link = self.links.get(message.link) if type(message.link) is int else None
        if link is None:
            self._strangers.drops["address"] += 1
            return
        link.receive(message, now)
        if self._schedule is not None:
            self._advance(self._schedule, now)

    def lose(self, neighbour: int, now: float) -> None:
        """The connection to a neighbour is lost: an activation that waits for it is given up at once."""
        for link in self.links.values():
            if link.neighbour == neighbour:
                link.lose()
        if self._schedule is not None:
            self._advance(self._schedule, now)

    def sit_out(self, iteration: int, now: float) -> None:
        """Take no part in an iteration, later than all before; the neighbours are told, so that none waits for it."""
        for link in self.links.values():
            link.sit_out(iteration, now)
        self._schedule = None
        self.done = True

    def tick(self, now: float) -> None:
        """Run the timers that have expired: heartbeats, retries, timeouts. See `next_event`."""
        if self._schedule is not None:
            if self._current is not None:
                self._current.tick(now)
            self._advance(self._schedule, now)
            self._beat(now)

    def _beat(self, now: float) -> None:
        """Send heartbeats, so that neighbours can tell an agent that waits for another from one that is dead."""
        if now >= self._beat_at and not self.done:
            self._beat_at = now + self._settings.resend
            for link in self.links.values():
                if link is not self._current:
                    link.beat()

    def next_event(self) -> float | None:
        """Time of the next timer, when `tick` must be called; None when done."""
        if self._schedule is None or self.done:
            return None
        own = self._current.next_event() if self._current is not None else None
        others = self._schedule.next_event(idle=self._current is None)
        return min(t for t in (own, others, self._beat_at) if t is not None)

    def take_outbox(self) -> list[tuple[int, LinkMessage]]:
        """Take the outgoing messages queued since the last call, in order, each with its receiver's id."""
        messages = self._outbox.copy()
        self._outbox.clear()
        return messages

    @property
    def counters(self) -> Counters:
        """Event counters summed over all links, including messages for a link that is not this agent's."""
        return sum(self.link_counters.values(), self._strangers)

    def residual(self) -> float:
        """Consensus residual: root mean square of u^q - u^other over the links' last commits; 0 without any."""
        gaps = [link.gap for link in self.links.values() if link.gap is not None]
        return float(np.sqrt(np.mean(gaps))) if gaps else 0.0

    def term(self) -> np.ndarray:
        """The consensus term of the links' latest states; zero without links."""
        if not self.links:
            return np.zeros(self._shape, np.float32)
        states, signs = [link.tip for link in self.links.values()], [link.sign for link in self.links.values()]
        if self._averages:
            return admm.averaging_term(states, signs)
        return admm.consensus_term(states, signs, self._beta)

    def _make_schedule(self, iteration: int, now: float) -> Schedule:
        if self._poisson:
            return PoissonSchedule([self._make_end(link, iteration, now) for link in self.links.values()])
        sequence = link_sequence(self._sequence_kind, self._graph, self._activations, self._run_seed, iteration)
        return SeededSchedule(positions_of(self.agent, self._graph, sequence), self.links)

    def _make_end(self, link: Link, iteration: int, now: float) -> Initiator | Responder:
        deadline = self._settings.deadline
        if self.agent > link.neighbour:
            return Responder(link, deadline=deadline, now=now)
        clock = PoissonClock(link.number, self._run_seed, iteration, self._mean_interval)
        return Initiator(
            link,
            clock,
            activations=self._share,
            refusals=self._refusals,
            deadline=deadline,
            resend=self._settings.resend,
            now=now,
        )

    def _advance(self, schedule: Schedule, now: float) -> None:
        """Open activations until one waits for its neighbour, or none can be opened now."""
        while self._current is None or not self._current.is_open:
            if self._current is not None:
                schedule.closed(self._current, now)
                self._current = None
            choice = schedule.pick(now)
            if choice is None:
                break
            self._activate(*choice, now)
        schedule.tend(now, idle=self._current is None)
        if self._current is None and schedule.finished and not self.done:
            if self._averages or not self._stepped:
                self._step(self.term())
            self.done = True

    def _activate(self, link: Link, k: int, now: float) -> None:
        self._current = link
        self.activations += 1
        if link.approach(k):
            self._stepped = True
            link.open(k, self._step(self.term()), now)
