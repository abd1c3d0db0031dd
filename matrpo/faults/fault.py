"""Data types of injected faults, their triggers, and the positions in a run that these refer to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from matrpo.runs.process_id import ProcessId

PHASES = ("rollout", "consensus")


@dataclass(frozen=True)
class Position:
    """Progress of a process: iteration (from 1), phase, activations of its own in it, and seconds since it began."""

    iteration: int
    phase: str
    activation: int
    seconds: float


@dataclass(frozen=True)
class Trigger:
    """Trigger of a fault: the position at which it begins or ends; by default the process's start."""

    iteration: int = 0
    phase: str = PHASES[0]
    activation: int = 0
    seconds: float = 0.0

    def reached(self, position: Position) -> bool:
        """Whether a process at this position has reached the trigger."""
        here = (position.iteration, PHASES.index(position.phase), position.activation)
        there = (self.iteration, PHASES.index(self.phase), self.activation)
        return here >= there and position.seconds >= self.seconds


@dataclass(frozen=True)
class Fault:
    """One injected fault: an entry of a fault script.

    Attributes:
        number: its place in the script, which names it in records and seeds its chances.
        kind: what `do` says.
        begin, end: when it acts; `end` None is the end of the run.
        lasts: seconds after its beginning at which it ends, if it says so.
        every: seconds after its beginning at which it begins again, if it does.
        directions: (sender, receiver) of the messages that it acts on.
        process: whom it kills or stops; None for a fault of messages.
        amounts: its numbers: `probability`, `seconds`, `jitter`, `bytes_per_second`, `restart_after`.
    """

    number: int
    kind: str
    begin: Trigger = Trigger()
    end: Trigger | None = None
    lasts: float | None = None
    every: float | None = None
    directions: frozenset[tuple[int, int]] = frozenset()
    process: ProcessId | None = None
    amounts: Mapping[str, float] = field(default_factory=dict)

    @property
    def acts_on_messages(self) -> bool:
        """Whether it affects messages, in the transport, rather than a process."""
        return self.process is None
