"""A simulated agent: consensus state machine, process and clock, with a mock local step in place of learning."""

from __future__ import annotations

import math

import numpy as np

from matrpo.consensus.message import LinkMessage
from matrpo.consensus.peer import Peer
from matrpo.simulation.events import Clock


class LocalStep:
    """Mock local step: log ratios depend on all consensus terms so far and differ at every step, to reveal mistakes."""

    def __init__(self, start: int, first: np.ndarray) -> None:
        self._state = first
        self._bias = np.float32(start * 0.618 % 1.0 - 0.4)

    def __call__(self, term: np.ndarray) -> np.ndarray:
        """The next log ratios."""
        self._state = np.tanh(term - self._state + self._bias)
        return self._state


class Average:
    """Local step of averaging: what the agent brought, plus its links' term."""

    def __init__(self, start: int, first: np.ndarray) -> None:
        self._own = np.roll(first, start) * np.float32(start % 7 + 1)

    def __call__(self, term: np.ndarray) -> np.ndarray:
        """The agent's part of the average."""
        part: np.ndarray = self._own + term
        return part


class Node(Clock):
    """A simulated process of an agent: its state machine, clock and progress in the run.

    Args:
        agent: its id.
        peer: its consensus state machine.
        clock: the reading of its clock at true time 0, and its seconds per true second.
    """

    def __init__(self, agent: int, peer: Peer, clock: tuple[float, float]) -> None:
        super().__init__(*clock)
        self.agent = agent
        self.incarnation = 0
        self.iteration = -1
        self.start(peer)

    def start(self, peer: Peer) -> None:
        """Restart the process: all state is lost but the clock and the progress in the run."""
        self.peer = peer
        self.alive = True
        self.paused = False
        self.has_begun = False
        self.phase = "waiting"
        """`waiting` for the environment to begin an iteration, `rollout`, or `consensus`."""
        self.begin_at = math.inf
        """True time at which the consensus begins."""
        self.inbox: list[tuple[LinkMessage, LinkMessage]] = []
        """Messages queued while the agent is paused: as they were sent, and as they arrived."""
        self.stop()
