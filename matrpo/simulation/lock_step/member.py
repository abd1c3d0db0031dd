"""What all simulated processes of the lock step have: a disk, and messages to send that may be their last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from matrpo.simulation.events import EventQueue
from matrpo.simulation.lock_step.history import LockStepHistory
from matrpo.simulation.lock_step.invariants import Invariants, Lineage
from matrpo.simulation.lock_step.network import Line, Network, Process


class Killed(BaseException):
    """Raised in the middle of what a process sends: it is killed there."""


@dataclass
class Disk:
    """What a process has written: its counter of starts, its iterations and its checkpoints.

    Attributes:
        incarnation: the number of its last start; 0 if there was none.
        ended: the iterations in its metrics, in order.
        checkpoints: its state by iteration.
    """

    incarnation: int = 0
    ended: list[int] = field(default_factory=list)
    checkpoints: dict[int, Lineage] = field(default_factory=dict)

    def begin_incarnation(self, at_least: int = 1) -> int:
        """Count a start, before any message is sent."""
        self.incarnation = max(self.incarnation + 1, at_least)
        return self.incarnation

    @property
    def newest(self) -> int:
        """The iteration of the newest checkpoint; 0 if there is none."""
        return max(self.checkpoints, default=0)

    def rewind(self, iteration: int) -> None:
        """Delete what is later."""
        self.ended = [i for i in self.ended if i <= iteration]
        self.checkpoints = {i: state for i, state in self.checkpoints.items() if i <= iteration}

    def record(self, iteration: int, state: Lineage, history: LockStepHistory) -> None:
        """Write an iteration down, and a checkpoint if one is due."""
        self.ended.append(iteration)
        if iteration % history.every == 0 or iteration == history.iterations:
            self.checkpoints[iteration] = dict(state)


class Member(Process):
    """A process of a simulation, which sends and has a disk.

    Args:
        name: `a0` or `s0`.
        history: the scenario.
        queue: of the simulation's events.
        rng: its random stream.
        invariants: what is checked of it.
        end: called when it ends by itself, or is killed.
    """

    network: Network

    def __init__(
        self,
        name: str,
        history: LockStepHistory,
        queue: EventQueue,
        rng: Random,
        invariants: Invariants,
        end: Callable[[Any, str | None], None],
    ) -> None:
        super().__init__(name, queue, rng)
        self.disk = Disk()
        self.history = history
        self.rng = rng
        self.invariants = invariants
        self.end = end

    def transmit(self, line: Line, message: Any) -> bool:
        """Send a message, if the process lives so long."""
        if self.fuse is not None:
            if self.fuse == 0:
                raise Killed
            self.fuse -= 1
        self.invariants.sent(message)
        return self.network.send(self, line, message)

    def go_on(self) -> None:
        """Act on what has arrived; killed in the midst of it, the process ends."""
        self.invariants.events += 1
        try:
            self.act()
        except Killed:
            self.end(self, None)

    def start(self) -> None:
        """Start the process, from what is on its disk."""
        self.alive, self.how, self.fuse, self.busy_until = True, None, None, 0.0
        self.inbox.clear()
        self.clock.stop()

    def act(self) -> None:
        """What the process does when it looks at its sockets and its clock."""
        raise NotImplementedError
