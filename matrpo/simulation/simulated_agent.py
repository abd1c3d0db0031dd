"""A simulated agent: consensus state machine, process and clock, with a mock local step in place of learning."""

from __future__ import annotations

import math

import numpy as np

from matrpo.consensus.message import LinkMessage
from matrpo.consensus.peer import Peer


class LocalStep:
    """Mock local step: log ratios depend on all consensus terms so far and differ at every step, to reveal mistakes."""

    def __init__(self, start: int, first: np.ndarray) -> None:
        self._state = first
        self._bias = np.float32(start * 0.618 % 1.0 - 0.4)

    def __call__(self, term: np.ndarray) -> np.ndarray:
        """The next log ratios."""
        self._state = np.tanh(term - self._state + self._bias)
        return self._state


class Node:
    """A simulated process of an agent: its state machine, clock and progress in the run.

    Args:
        agent: its id.
        peer: its consensus state machine.
        clock: the reading of its clock at true time 0, and its seconds per true second.
    """

    def __init__(self, agent: int, peer: Peer, clock: tuple[float, float]) -> None:
        self.agent = agent
        self.incarnation = 0
        self.iteration = -1
        self._offset, self._rate = clock
        self._latest = 0.0
        self.start(peer)

    def start(self, peer: Peer) -> None:
        """Restart the process: all state is lost but the clock and the progress in the run."""
        self.peer = peer
        self.alive = True
        self.paused = False
        self.has_begun = False
        self.phase = "waiting"
        """`waiting` for the environment to begin an iteration, `rollout`, or `consensus`."""
        self.begin_at = self.wake_at = math.inf
        """True times at which the consensus begins, and of the state machine's next timer."""
        self.inbox: list[tuple[LinkMessage, LinkMessage]] = []
        """Messages queued while the agent is paused: as they were sent, and as they arrived."""
        self._wake = 0.0

    def now(self, true: float) -> float:
        """The reading of this agent's clock; never before the time of a timer that has expired."""
        reading = self._offset + self._rate * true
        self._latest = max(self._latest, self._wake if true >= self.wake_at else reading, reading)
        return self._latest

    def sleep_until(self, wake: float | None, true: float) -> bool:
        """Set the timer `wake_at` from a reading of this agent's clock; returns whether the time has changed."""
        before = self.wake_at
        self._wake = math.inf if wake is None else wake
        self.wake_at = max(true, (self._wake - self._offset) / self._rate)
        return self.wake_at != before or before <= true
