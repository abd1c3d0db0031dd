"""Fault injection on the messages that an agent sends.

The gate stands between the link transport, which asks it about every message, and its sockets. It does no I/O: given
the time and the agent's position, it returns the messages to send now. Each fault and neighbour has a random stream of
its own, seeded by the run's seed.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from itertools import count

import numpy as np

from matrpo import random_streams
from matrpo.consensus.message import Frames
from matrpo.faults.fault import Fault, Position
from matrpo.faults.passage import Passage

NOTICED_AFTER = 2.5
"""Timeout in seconds after which a neighbour cut off in both directions counts as lost, like that of libzmq's
heartbeats: they are below the gate and would not notice."""

_GARBAGE = 64


class Activity:
    """Tracks which faults of a process are active.

    Args:
        faults: the process's share of a script.
    """

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._waiting = list(faults)
        self._since: dict[int, float] = {}
        self._running: list[Fault] = []
        self.active: list[Fault] = []

    def resume(self, since: dict[int, float]) -> None:
        """Restore active faults after a restart, from the seconds at which each began (on the clock of positions)."""
        for fault in [fault for fault in self._waiting if fault.number in since]:
            self._waiting.remove(fault)
            self._running.append(fault)
            self._since[fault.number] = since[fault.number]

    def move(self, position: Position) -> tuple[list[Fault], list[Fault]]:
        """Advance to a position; returns the faults that have become active there, and those that have ended."""
        for fault in [fault for fault in self._waiting if fault.begin.reached(position)]:
            self._waiting.remove(fault)
            self._running.append(fault)
            self._since[fault.number] = position.seconds
        before = self.active
        self.active = [fault for fault in self._running if self._acts(fault, position)]
        self._running = [fault for fault in self._running if fault in self.active or not self._is_over(fault, position)]
        began = [fault for fault in self.active if fault not in before]
        return began, [fault for fault in before if fault not in self.active]

    def _acts(self, fault: Fault, position: Position) -> bool:
        if fault.end is not None and fault.end.reached(position):
            return False
        elapsed = position.seconds - self._since[fault.number]
        return fault.lasts is None or (elapsed % fault.every if fault.every else elapsed) < fault.lasts

    def _is_over(self, fault: Fault, position: Position) -> bool:
        return fault.every is None or (fault.end is not None and fault.end.reached(position))


class FaultGate:
    """Injects faults into the messages that one agent sends: drops, delays, copies and corrupts them.

    Args:
        faults: of messages.
        agent: whose messages these are.
        neighbours: to whom.
        seed: the run's.
    """

    def __init__(self, faults: Sequence[Fault], agent: int, neighbours: Sequence[int], seed: int) -> None:
        self.activity = Activity(faults)
        self._agent = agent
        self._neighbours = neighbours
        self._draws = {
            (fault.number, other): np.random.default_rng(random_streams.faults(seed, fault.number, agent, other))
            for fault in faults
            for other in neighbours
        }
        unused = 1 + max((fault.number for fault in faults), default=-1)
        self._noise = {
            other: np.random.default_rng(random_streams.faults(seed, unused, agent, other)) for other in neighbours
        }
        self._held: list[tuple[float, int, int, Frames]] = []
        self._order = count()
        self._free_at: dict[tuple[int, int], float] = {}
        self._cut_since: dict[int, float] = {}

    @property
    def next_at(self) -> float:
        """The time at which the next held message is due."""
        return self._held[0][0] if self._held else math.inf

    def take(self, neighbour: int, frames: Frames, now: float) -> list[Frames]:
        """Apply the active faults to a message; returns those to send to the neighbour at once, and holds others."""
        passage, noise = self._passage(neighbour, sum(map(len, frames)), now), self._noise[neighbour]
        leaving = [_garbage(frames, noise) for _ in range(passage.garbage)]
        for delay in passage.delays:
            copy = _with_flipped_bit(frames, noise) if passage.is_corrupt else frames
            if delay > 0.0:
                heapq.heappush(self._held, (now + delay, next(self._order), neighbour, copy))
            else:
                leaving.append(copy)
        return leaving

    def _passage(self, neighbour: int, size: int, now: float) -> Passage:
        passage = Passage()
        for fault in self.activity.active:
            if (self._agent, neighbour) not in fault.directions:
                continue
            if fault.kind == "limit":
                passage.hold(self._queueing(fault, neighbour, size, now))
            else:
                passage.meet(fault.kind, self._draws[fault.number, neighbour].random, **fault.amounts)
        return passage

    def due(self, now: float) -> list[tuple[int, Frames]]:
        """The held messages whose time has come, each with its receiver."""
        leaving = []
        while self._held and self._held[0][0] <= now:
            _, _, neighbour, frames = heapq.heappop(self._held)
            leaving.append((neighbour, frames))
        return leaving

    def cut_off(self, now: float) -> list[int]:
        """The neighbours that have been cut off in both directions for so long that they count as lost."""
        cuts = [fault.directions for fault in self.activity.active if fault.kind == "partition" or _drops_all(fault)]
        for other in self._neighbours:
            both = {(self._agent, other), (other, self._agent)}
            if any(both <= directions for directions in cuts):
                self._cut_since.setdefault(other, now)
            else:
                self._cut_since.pop(other, None)
        return [other for other, since in self._cut_since.items() if now - since >= NOTICED_AFTER]

    def _queueing(self, fault: Fault, neighbour: int, size: int, now: float) -> float:
        """Seconds until a limited direction has carried what was sent before, and these bytes."""
        key = (fault.number, neighbour)
        begins = max(now, self._free_at.get(key, now))
        self._free_at[key] = begins + size / max(1.0, fault.amounts["bytes_per_second"])
        return self._free_at[key] - now


def _drops_all(fault: Fault) -> bool:
    return fault.kind == "drop" and fault.amounts["probability"] == 1.0


def _with_flipped_bit(frames: Frames, draw: np.random.Generator) -> Frames:
    copies = [bytearray(frame) for frame in frames]
    frame = copies[int(draw.integers(len(copies)))]
    frame[int(draw.integers(len(frame)))] ^= 1 << int(draw.integers(8))
    return [bytes(copy) for copy in copies]


def _garbage(frames: Frames, draw: np.random.Generator) -> Frames:
    """A malformed message: random bytes, a truncated frame, a frame too many, or deeply nested lists."""
    noise = draw.bytes(_GARBAGE)
    short = bytes(frames[0])[: int(draw.integers(len(frames[0])))]
    choices: list[Frames] = [[noise], [short, *frames[1:]], [*frames, noise], [b"\x91" * 1000]]
    return choices[int(draw.integers(len(choices)))]
