"""Hypothesis picks every delivery, loss, repetition, silence and restart itself, and shrinks what goes wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from simulated_network import SHAPE, Agent, line, same

from matrpo.consensus.message import LinkMessage
from matrpo.consensus.peer import Peer
from matrpo.settings.config import GraphConsensusSettings
from matrpo.settings.sections import ConnectionSettings
from matrpo.simulation.links.invariants import Invariants

GRAPH = line(3)
ACTIVATIONS = 6
BETA, DEADLINE, RESEND = 0.7, 4.0, 1.0

agents = st.integers(0, GRAPH.num_agents - 1)
positions = st.integers(0, 2**16)
nonsense = st.sampled_from(
    [
        {"u": np.full(SHAPE, np.nan, np.float32)},
        {"u": np.zeros((1, 1), np.float32)},
        {"u": [[0.0]]},
        {"k": 0, "kind": "ratios"},
        {"k": 2**40},
        {"k": None},
        {"iteration": -1},
        {"incarnation": "0"},
        {"kind": "vote"},
        {"kind": None},
        {"sender": 7},
        {"link": 7},
        {"tip": -1},
        {"answered": 1},
    ]
)


class Network(RuleBasedStateMachine):
    """Three agents in a line, each in its own iteration, and all messages that are still on the way."""

    schedule = "seeded"

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.in_flight: list[tuple[int, LinkMessage]] = []
        self.iterations = [-1] * GRAPH.num_agents
        self.incarnations = [0] * GRAPH.num_agents
        self.knows_shape: set[int] = set()
        self.peers = [self.new_peer(q) for q in range(GRAPH.num_agents)]
        self.account = Invariants(self.peers, BETA, DEADLINE)

    def new_peer(self, agent: int) -> Peer:
        return Peer(
            agent,
            GRAPH,
            5,
            GraphConsensusSettings(beta=BETA, admm_iterations=ACTIVATIONS, schedule=self.schedule),
            ConnectionSettings(link_deadline=DEADLINE, link_resend=RESEND),
            incarnation=self.incarnations[agent],
            mean_interval=0.1,
        )

    def check(self, agent: int, ticked: bool = False) -> None:
        peer = self.peers[agent]
        for receiver, message in peer.take_outbox():
            self.account.sent(message, self.now)
            self.in_flight.append((receiver, message))
        self.account.changed(peer, self.now, ticked, peer.next_event())

    def begin(self, agent: int) -> None:
        iteration = self.iterations[agent]
        self.knows_shape.add(agent)
        self.account.began(self.peers[agent], iteration)
        step = Agent(agent + 10 * self.incarnations[agent], iteration)
        self.peers[agent].begin(iteration, step, SHAPE, self.now)
        self.check(agent)

    def hand_over(self, position: int) -> None:
        receiver, message = self.in_flight[position]
        self.account.received(receiver, message)
        self.peers[receiver].receive(message, self.now)
        self.check(receiver)

    @rule(agent=agents)
    def begin_the_next_iteration(self, agent: int) -> None:
        if self.peers[agent].done or self.iterations[agent] < 0:
            self.iterations[agent] += 1
            self.begin(agent)

    @precondition(lambda self: self.in_flight)
    @rule(position=positions, stays=st.sampled_from([False, False, False, True]))
    def deliver(self, position: int, stays: bool) -> None:
        position %= len(self.in_flight)
        self.hand_over(position)
        if not stays:
            del self.in_flight[position]

    @precondition(lambda self: self.in_flight)
    @rule(position=positions)
    def lose(self, position: int) -> None:
        del self.in_flight[position % len(self.in_flight)]

    @precondition(lambda self: self.in_flight)
    @rule(position=positions, changes=nonsense)
    def corrupt(self, position: int, changes: dict[str, object]) -> None:
        receiver, message = self.in_flight[position % len(self.in_flight)]
        if "u" in changes and receiver not in self.knows_shape:
            return
        peer = self.peers[receiver]
        dropped = sum(peer.counters.drops.values())
        peer.receive(replace(message, **changes), self.now)
        self.check(receiver)
        assert sum(peer.counters.drops.values()) > dropped

    @rule(seconds=st.sampled_from([0.05, 1.0, 1.0, DEADLINE]))
    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            due = [(event, q) for q, peer in enumerate(self.peers) if (event := peer.next_event()) is not None]
            event, agent = min(due, default=(end, -1))
            if event >= end:
                break
            self.now = max(self.now, event)
            self.peers[agent].tick(self.now)
            self.check(agent, ticked=True)
        self.now = end

    @rule(agent=agents, neighbour=agents)
    def lose_the_connection(self, agent: int, neighbour: int) -> None:
        self.account.lost(agent, neighbour)
        self.peers[agent].lose(neighbour, self.now)
        self.check(agent)

    @precondition(lambda self: max(self.iterations) >= 0)
    @rule(agent=agents)
    def sit_an_iteration_out(self, agent: int) -> None:
        self.iterations[agent] += 1
        self.peers[agent].sit_out(self.iterations[agent], self.now)
        self.check(agent)

    @rule(agent=agents, resumes=st.booleans())
    def restart(self, agent: int, resumes: bool) -> None:
        self.incarnations[agent] += 1
        self.peers[agent] = self.new_peer(agent)
        self.account.started(self.peers[agent], self.incarnations[agent])
        self.iterations[agent] += not resumes or self.iterations[agent] < 0
        self.begin(agent)

    def teardown(self) -> None:
        """Once nothing goes wrong any more, every link commits again."""
        if max(self.iterations) < 0:
            return
        self.run_to_the_end()
        first = max(self.iterations) + 1
        for iteration in range(first, first + 4):
            before = [peer.counters.commits for peer in self.peers]
            for agent in range(GRAPH.num_agents):
                self.iterations[agent] = iteration
                self.begin(agent)
            self.run_to_the_end()
        for link, (i, j) in enumerate(GRAPH.links):
            assert same(self.peers[i].links[link].tip, self.peers[j].links[link].tip)
        commits = [peer.counters.commits - n for peer, n in zip(self.peers, before, strict=True)]
        assert sum(commits) == 2 * ACTIVATIONS

    def run_to_the_end(self) -> None:
        for _ in range(2000):
            while self.in_flight:
                self.hand_over(0)
                del self.in_flight[0]
            if all(peer.done or self.iterations[q] < 0 for q, peer in enumerate(self.peers)):
                return
            self.wait(0.5)
        raise AssertionError("the agents never finish")


class PoissonNetwork(Network):
    """The same with links that are activated by their own clocks."""

    schedule = "poisson"


@pytest.mark.parametrize("machine", [Network, PoissonNetwork])
def test_whatever_happens_the_invariants_hold(machine: type[Network]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=60, deadline=None))


@pytest.mark.slow
@pytest.mark.parametrize("machine", [Network, PoissonNetwork])
def test_whatever_happens_for_long_the_invariants_hold(machine: type[Network]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=1500, stateful_step_count=120, deadline=None))
