"""A liar: an admitted agent that says whatever the wire lets it say, whenever it likes, under its own id."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from matrpo.consensus.message import LARGEST_NUMBER
from matrpo.decentralized.lock_step.messages import Action, Bye, Hello, Observation, Outdated
from matrpo.simulation.lock_step.member import Member
from matrpo.simulation.lock_step.network import Change, Line

_NUMBERS = (0, 1, 2**20, 2**31, 2**52, LARGEST_NUMBER - 2, LARGEST_NUMBER - 1)
_PAUSE = (0.02, 0.6)


class _Truth:
    """What the liar knows: the latest step that each server has told it of, and its own number."""

    def __init__(self, incarnation: int, rng: Random) -> None:
        self.incarnation = incarnation
        self.attempt, self.iteration, self.t = 1, 1, 0
        self._rng = rng

    def hear(self, message: Observation) -> None:
        self.attempt, self.iteration, self.t = message.attempt, message.iteration, message.t

    def bend(self, number: int) -> int:
        """The number, or nearly that, or any other."""
        if self._rng.random() < 0.5:
            return number
        if self._rng.random() < 0.5:
            return self._rng.choice(_NUMBERS)
        return min(max(0, number + self._rng.choice((-1, 1, 1, 2, 2**20))), LARGEST_NUMBER - 1)

    def lie(self, agent: int) -> Hello | Action | Bye:
        kind = self._rng.choice((Hello, Hello, Hello, Action, Action, Bye))
        if kind is Bye:
            return Bye(agent)
        if kind is Hello:
            self.incarnation = min(self.incarnation + (self._rng.random() < 0.2), LARGEST_NUMBER - 1)
            return Hello(agent, *map(self.bend, (self.incarnation, self.iteration, self.attempt)))
        return self.act(agent, *map(self.bend, (self.attempt, self.iteration, self.t)))

    def act(self, agent: int, attempt: int, iteration: int, t: int) -> Action:
        """An action that is nobody's."""
        action: Any = self._rng.getrandbits(32)
        return Action(agent, attempt, iteration, t, action)


def lie(agent: Member) -> Iterator[float]:
    """The life of a liar; it yields until when it is quiet."""
    rng = agent.rng
    truth = _Truth(agent.disk.begin_incarnation(), rng)
    obedience = rng.choice((0.0, 0.7, 1.0))
    lines: dict[int, Line] = {}
    agent.network.dial(agent)
    lies_at = 0.0
    while True:
        yield lies_at
        for item in agent.take_inbox():
            if isinstance(item, Change):
                lines[item.line.server.number] = item.line
                agent.transmit(item.line, Hello(agent.number, truth.incarnation, truth.iteration, truth.attempt))
            elif isinstance(item[1], Observation):
                truth.hear(item[1])
                if rng.random() < obedience:
                    agent.transmit(item[0], truth.act(agent.number, truth.attempt, truth.iteration, truth.t))
            elif isinstance(item[1], Outdated):
                truth.incarnation = max(truth.incarnation, item[1].incarnation)
        if agent.now < lies_at:
            continue
        lies_at = agent.now + rng.uniform(*_PAUSE)
        for line in lines.values():
            for _ in range(rng.choice((0, 0, 1, 1, 3))):
                agent.transmit(line, truth.lie(agent.number))
