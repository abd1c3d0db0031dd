"""A seeded network with faults for peers on a simulated clock, and the serial run they are compared with."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from matrpo.consensus import admm
from matrpo.consensus.link import Link
from matrpo.consensus.message import LinkMessage
from matrpo.consensus.peer import Peer, Step
from matrpo.settings.config import GraphConsensusSettings
from matrpo.settings.sections import ConnectionSettings
from matrpo.topology.graph import CommunicationGraph
from matrpo.topology.schedule import link_sequence

SHAPE = (3, 5)
BETA = 0.7
RUN_SEED = 3


def ring(num_agents: int) -> CommunicationGraph:
    return CommunicationGraph.from_links(num_agents, [(i, (i + 1) % num_agents) for i in range(num_agents)], "ring")


def line(num_agents: int) -> CommunicationGraph:
    return CommunicationGraph.from_links(num_agents, [(i, i + 1) for i in range(num_agents - 1)], "line")


def complete(num_agents: int) -> CommunicationGraph:
    pairs = [(i, j) for i in range(num_agents) for j in range(i)]
    return CommunicationGraph.from_links(num_agents, pairs, "complete")


class Agent:
    """A local step with a memory, so that a step taken twice or out of order changes everything that follows."""

    def __init__(self, agent: int, iteration: int) -> None:
        rng = np.random.default_rng([agent, iteration])
        self.advantage = rng.normal(size=SHAPE).astype(np.float32)
        self.drift = np.zeros(SHAPE, np.float32)
        self.steps = 0

    def __call__(self, pull: np.ndarray) -> np.ndarray:
        self.steps += 1
        self.drift = np.float32(0.5) * self.drift + np.float32(0.1) * pull
        return np.tanh(self.advantage + pull + self.drift, dtype=np.float32)


def make_peers(
    graph: CommunicationGraph,
    activations: int,
    schedule: str = "seeded",
    *,
    consensus: str = "admm",
    beta: float = BETA,
    wire_dtype: str = "float32",
    deadline: float = 10.0,
    resend: float = 1.0,
    **changes: Any,
) -> list[Peer]:
    settings = GraphConsensusSettings(
        consensus=consensus,
        beta=beta,
        admm_iterations=activations,
        schedule=schedule,
        wire_dtype=wire_dtype,
    )
    connections = ConnectionSettings(link_deadline=deadline, link_resend=resend)
    return [Peer(q, graph, RUN_SEED, settings, connections, **changes) for q in range(graph.num_agents)]


def serial_run(
    graph: CommunicationGraph, activations: int, iteration: int, schedule: str = "seeded"
) -> list[dict[int, admm.LinkState]]:
    """Algorithm 1 on all agents, one activation after the other: each agent's final states by link."""
    agents = [Agent(q, iteration) for q in range(graph.num_agents)]
    states = [{e: admm.initial_state(SHAPE) for e in graph.links_of(q)} for q in range(graph.num_agents)]
    sequence = link_sequence(schedule, graph, activations, RUN_SEED, iteration)
    for k, link in enumerate(map(int, sequence), start=1):
        i, j = graph.links[link]
        u = {}
        for q in (i, j):
            signs = [graph.sign(e, q) for e in states[q]]
            u[q] = agents[q](admm.consensus_term(list(states[q].values()), signs, BETA))
        states[i][link] = admm.commit(states[i][link], k, u[i], u[j], +1, BETA)
        states[j][link] = admm.commit(states[j][link], k, u[j], u[i], -1, BETA)
    return states


def same(a: admm.LinkState, b: admm.LinkState) -> bool:
    return a.number == b.number and a.y.tobytes() == b.y.tobytes() and a.ubar.tobytes() == b.ubar.tobytes()


def check_common_states(a: Link, b: Link) -> None:
    """I1, if both ends are in the same iteration."""
    if a.iteration != b.iteration:
        return
    ours, theirs = ({s.number: s for s in (end.tip, end.base)} for end in (a, b))
    common = ours.keys() & theirs.keys()
    assert common, f"link {a.number}: no common state in {set(ours)} and {set(theirs)}"
    assert all(same(ours[n], theirs[n]) for n in common), f"link {a.number}: different states of one number"


@dataclass
class Faults:
    """What the network does to each message until `until`; afterwards it delivers all, quickly."""

    loss: float = 0.0
    duplication: float = 0.0
    corruption: float = 0.0
    delay: float = 0.01
    until: float = float("inf")
    cut: set[tuple[int, int]] = field(default_factory=set)
    """Directions (from, to) on which everything is lost."""


class Network:
    """Runs peers through iterations over a faulty network and checks I1 and I3 after every event."""

    def __init__(
        self,
        peers: Sequence[Peer],
        graph: CommunicationGraph,
        faults: Faults,
        seed: int,
        make_step: Callable[[int, int], Step] = Agent,
    ) -> None:
        self.peers = peers
        self.make_step = make_step
        self.graph = graph
        self.faults = faults
        self.rng = np.random.default_rng(seed)
        self.now = 0.0
        self.sent: list[LinkMessage] = []
        self.dead: set[int] = set()
        self.results: dict[tuple[int, int], dict[int, admm.LinkState]] = {}
        """The links' tips by (iteration, agent), when the agent was done."""
        self._events: list[tuple[float, int, int, LinkMessage]] = []
        self._count = 0
        self._seen: dict[tuple[int, int], tuple[int, admm.LinkState]] = {}

    def _check(self, changed: Peer) -> None:
        for e, link in changed.links.items():
            iteration, state = self._seen.get((changed.agent, e), (-1, link.tip))
            if iteration == link.iteration and state is not link.tip:
                assert link.tip.number > state.number, "an activation was applied twice or undone by an older one"
            if link.neighbour not in self.dead:
                check_common_states(link, self.peers[link.neighbour].links[e])
            self._seen[changed.agent, e] = link.iteration, link.tip

    def collect(self, peer: Peer) -> None:
        for receiver, message in peer.take_outbox():
            self.sent.append(message)
            if peer.agent not in self.dead:
                self._transmit(receiver, message)
        self._check(peer)

    def _transmit(self, receiver: int, message: LinkMessage) -> None:
        faulty = self.now < self.faults.until
        if (message.sender, receiver) in self.faults.cut and faulty:
            return
        copies = 1
        if faulty:
            copies = int(self.rng.random() >= self.faults.loss) + int(self.rng.random() < self.faults.duplication)
        for _ in range(copies):
            corrupt = faulty and self.rng.random() < self.faults.corruption
            delay = self.rng.exponential(self.faults.delay) if faulty else 0.001
            self._count += 1
            arriving = spoil(message, self.rng) if corrupt else message
            heapq.heappush(self._events, (self.now + delay, self._count, receiver, arriving))

    def _pause(self) -> float:
        """What an agent does between two iterations; well below the deadline."""
        return float(self.rng.uniform(0.0, 3.0))

    def run(self, iterations: int = 1, first: int = 0, limit: float = 1e4) -> None:
        """Until every living peer has done all iterations; each begins the next one a little after the last."""
        left = [iterations] * len(self.peers)
        begin_at: list[float | None] = [self.now + self._pause() for _ in self.peers]
        while any(n > 0 for q, n in enumerate(left) if q not in self.dead):
            arrival = self._events[0][0] if self._events else float("inf")
            wakes = [
                (t, q)
                for q, peer in enumerate(self.peers)
                if q not in self.dead
                for t in (begin_at[q] if begin_at[q] is not None else peer.next_event(),)
                if t is not None
            ]
            wake, q = min(wakes, default=(float("inf"), -1))
            self.now = max(self.now, min(arrival, wake))
            assert self.now < limit, "not done in time"
            if arrival <= wake:
                _, _, q, message = heapq.heappop(self._events)
                if q in self.dead:
                    continue
                self.peers[q].receive(message, self.now)
            elif begin_at[q] is not None:
                begin_at[q] = None
                iteration = first + iterations - left[q]
                self.peers[q].begin(iteration, self.make_step(q, iteration), SHAPE, self.now)
            else:
                self.peers[q].tick(self.now)
            self.collect(self.peers[q])
            if self.peers[q].done and begin_at[q] is None and left[q] > 0:
                self.results[first + iterations - left[q], q] = {e: link.tip for e, link in self.peers[q].links.items()}
                left[q] -= 1
                begin_at[q] = self.now + self._pause() if left[q] else None


def spoil(message: LinkMessage, rng: np.random.Generator) -> LinkMessage:
    """A corruption that a receiver can tell."""
    if message.u is None:
        return replace(message, u=np.zeros(SHAPE, np.float32))
    u = message.u.copy()
    u[tuple(rng.integers(SHAPE))] = rng.choice([np.nan, np.inf, -np.inf, 1e30])
    spoilt = [
        replace(message, u=u),
        replace(message, u=message.u[:-1]),
        replace(message, u=None),
        replace(message, tip=message.k),
        replace(message, link=message.link + 1),
        replace(message, k=-1),
    ]
    return spoilt[rng.integers(len(spoilt))]
