"""Messages of the lock step: agents send Hello, Action and Bye, environment servers Observation, Outdated and Stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from matrpo.envs.shared import AgentStep


@dataclass(frozen=True)
class Hello:
    """An agent registers, for the iteration in which it can act; `attempt` is the latest that it has been told of."""

    sender: int
    incarnation: int
    iteration: int
    attempt: int = 0


@dataclass(frozen=True)
class Action:
    """An agent's action of width w in B environments, (B, w), at step t of an iteration, in this attempt at it."""

    sender: int
    attempt: int
    iteration: int
    t: int
    action: np.ndarray


@dataclass(frozen=True)
class Bye:
    """An agent leaves: it has finished its last iteration."""

    sender: int


@dataclass(frozen=True)
class Observation:
    """An agent's observation, with its last action's outcome, after t steps of an iteration, in this attempt at it."""

    attempt: int
    iteration: int
    t: int
    step: AgentStep


@dataclass(frozen=True)
class Outdated:
    """The answer to a hello of an incarnation that is not the agent's latest: `incarnation` is."""

    incarnation: int


@dataclass(frozen=True)
class Stop:
    """The environment server ends the run."""

    finished: bool


@dataclass(frozen=True)
class Ping:
    """The environment server probes whether a connection is alive. No answer is due."""
