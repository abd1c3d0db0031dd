"""The simulated network: latency and injected faults of messages."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

from matrpo.consensus.message import LinkMessage
from matrpo.faults.passage import Passage
from matrpo.simulation.links.history import LINK_FAULTS, Fault, History

LONGEST_LATENCY = 0.012
"""The longest time of a message without faults, in seconds."""

_LATENCY = (0.002, LONGEST_LATENCY)
_NUMBERS = ("sender", "incarnation", "iteration", "link", "k", "tip", "base")
_NONSENSE: tuple[Any, ...] = (None, "1", 1.5, True, float("nan"), [1], -1, 2**70)
_WRONG = (np.nan, np.inf, -np.inf, 1e30)


class FaultyNetwork:
    """Simulated network that loses, duplicates, delays and corrupts messages by a history's faults.

    Args:
        history: with the faults.
        rng: random stream that decides about each message.
    """

    def __init__(self, history: History, rng: Random) -> None:
        self._rng = rng
        self._faults: dict[tuple[int, int], list[Fault]] = {}
        for i, j in history.links:
            for direction in ((i, j), (j, i)):
                self._faults[direction] = [fault for fault in history.faults if _concerns(fault, direction)]

    def latency(self) -> float:
        """Random latency of a message without faults, in seconds."""
        return self._rng.uniform(*_LATENCY)

    def send(self, receiver: int, message: LinkMessage, now: float) -> list[tuple[float, LinkMessage]]:
        """Deliveries of a message: (seconds until it arrives, its content on arrival), for each copy."""
        faults = [fault for fault in self._faults[message.sender, receiver] if fault.start <= now < fault.stop]
        if not faults:
            return [(self.latency(), message)]
        passage, random = Passage(), self._rng.random
        for fault in faults:
            passage.meet(fault.kind, random, probability=fault.amount, jitter=fault.amount)
        return [
            (self.latency() + delay, corrupt(message, self._rng) if passage.is_corrupt else message)
            for delay in passage.delays
        ]


def _concerns(fault: Fault, direction: tuple[int, int]) -> bool:
    if fault.kind == "partition":
        return (direction[0] in fault.where) != (direction[1] in fault.where)
    return fault.kind in LINK_FAULTS and fault.where in ((), direction)


def corrupt(message: LinkMessage, rng: Random) -> LinkMessage:
    """The message with one bit of its header or payload flipped, or with a field that no sender would send."""
    kind = rng.randrange(6)
    if kind == 0:
        name = rng.choice(_NUMBERS)
        return _change(message, name, getattr(message, name) ^ (1 << rng.randrange(65)))
    if kind == 1:
        return _change(message, rng.choice((*_NUMBERS, "kind", "answered")), rng.choice(_NONSENSE))
    if kind == 2:
        return _change(message, "kind", message.kind[:-1] + chr(ord(message.kind[-1]) ^ (1 << rng.randrange(7))))
    if message.u is None:
        return replace(message, u=np.zeros((1, 1), np.float32))
    if kind == 3:
        return replace(message, u=_flip(message.u, rng))
    if kind == 4:
        return replace(message, u=_poison(message.u, rng))
    return replace(message, u=rng.choice((None, message.u[:-1], message.u.astype(np.float64), message.u[0])))


def _change(message: LinkMessage, name: str, value: Any) -> LinkMessage:
    changes: dict[str, Any] = {name: value}
    return replace(message, **changes)


def _flip(u: np.ndarray, rng: Random) -> np.ndarray:
    raw = bytearray(u.tobytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return np.frombuffer(bytes(raw), u.dtype).reshape(u.shape)


def _poison(u: np.ndarray, rng: Random) -> np.ndarray:
    poisoned = u.copy()
    with np.errstate(over="ignore"):
        poisoned[rng.randrange(u.shape[0]), rng.randrange(u.shape[1])] = np.float64(rng.choice(_WRONG)).astype(u.dtype)
    return poisoned
