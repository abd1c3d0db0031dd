"""Thousands of short random histories of one link, in which anything may happen at any time."""

from __future__ import annotations

import numpy as np
import pytest
from marks import slow
from simulated_network import check_common_states

from matrpo.consensus.link import Link
from matrpo.consensus.link_types import Counters, LinkSettings

SHAPE = (3, 5)
LAST_K = 6
DEADLINE = 10.0


class History:
    """Two ends that open activations, lose patience and go through iterations independently of each other."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.in_flight: list = []
        self.links = []
        for agent in (0, 1):
            settings = LinkSettings(agent, 0, 0.5, LAST_K, np.dtype(np.float32), DEADLINE, 1.0)
            self.links.append(Link(0, 1 - agent, 1 - 2 * agent, settings, self.in_flight, Counters()))
            self.links[agent].begin(0, SHAPE, 0.0)
        self.now = 0.0
        self.undone = 0
        self.committed: set[tuple[int, int, int]] = set()
        """(neighbour, iteration, k) of all commits."""

    def run(self, events: int) -> None:
        for _ in range(events):
            end = self.links[self.rng.integers(2)]
            tips = [link.tip for link in self.links]
            action = self.rng.choice(["go on", "deliver", "tick", "give up"], p=[0.3, 0.5, 0.15, 0.05])
            if action == "go on":
                self.go_on(end)
            elif action == "deliver":
                self.deliver()
            else:
                self.now += 1.0
                end.tick(self.now + (DEADLINE if action == "give up" else 0.0))
            check_common_states(*self.links)
            for link, before in zip(self.links, tips, strict=True):
                if link.tip is not before and link.tip.number > 0:
                    assert link.tip.number > before.number
                    self.committed.add((link.neighbour, link.iteration, link.tip.number))
                    self.undone += link.base.number < before.number

    def go_on(self, end: Link) -> None:
        if end.is_open:
            return
        k = end.k + int(self.rng.integers(1, 3))
        if k > LAST_K:
            end.begin(end.iteration + 1, SHAPE, self.now)
        elif end.approach(k):
            end.open(k, self.rng.normal(size=SHAPE).astype(np.float32), self.now)

    def deliver(self) -> None:
        """Any message in flight; it may be lost, or stay in flight."""
        if not self.in_flight:
            return
        i = self.rng.integers(len(self.in_flight))
        receiver, message = self.in_flight[i] if self.rng.random() < 0.2 else self.in_flight.pop(i)
        if self.rng.random() < 0.8:
            self.links[receiver].receive(message, self.now)


@pytest.mark.parametrize("batch", [*range(2), *map(slow, range(2, 10))])
def test_the_two_ends_always_have_a_common_state(batch):
    undone = 0
    for seed in range(300 * batch, 300 * (batch + 1)):
        history = History(seed)
        history.run(60)
        undone += history.undone
    assert undone > 10


def test_an_end_that_waits_gets_what_the_other_committed():
    """Liveness, from any point on: one question, asked twice if need be, closes what only one end has open."""
    helped = released = 0
    for seed in range(600):
        history = History(seed)
        history.run(40)
        for waiting, other in (history.links, history.links[::-1]):
            position = (waiting.iteration, waiting.k)
            behind = (other.iteration, other.k) < position
            if not waiting.is_open or behind or (other.is_open and (other.iteration, other.k) == position):
                continue
            history.in_flight.clear()
            waiting.tick(waiting.next_event())
            if not waiting.is_open:
                continue
            for _ in range(4):
                arrivals, history.in_flight[:] = history.in_flight.copy(), []
                for receiver, message in arrivals:
                    history.links[receiver].receive(message, history.now)
            assert not waiting.is_open
            committed = (other.neighbour, *position) in history.committed
            assert (waiting.tip.number == position[1]) == committed
            helped += committed
            released += not committed
    assert helped > 50
    assert released > 50
