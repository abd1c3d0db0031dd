"""What agents and environment servers tell each other in lock step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from matrpo.envs.shared import AgentStep


@dataclass(frozen=True)
class Hello:
    """An agent says where it is and in which iteration it can act; `attempt` is the latest that it has been told of."""

    sender: int
    incarnation: int
    iteration: int
    attempt: int = 0


@dataclass(frozen=True)
class Action:
    """An agent's action (B, w) at step t of an iteration, in this attempt at it."""

    sender: int
    attempt: int
    iteration: int
    t: int
    action: np.ndarray


@dataclass(frozen=True)
class Bye:
    """An agent has finished its last iteration."""

    sender: int


@dataclass(frozen=True)
class Observation:
    """What an agent sees after t steps of an iteration, in this attempt at it."""

    attempt: int
    iteration: int
    t: int
    step: AgentStep


@dataclass(frozen=True)
class Stop:
    """The environment server says that the run is over."""

    finished: bool


@dataclass(frozen=True)
class Ping:
    """The environment server looks whether a connection is still there. No answer is due."""
