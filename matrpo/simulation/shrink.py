"""Shrinking of failing histories, of links and of the lock step: a smaller one that violates the same invariant."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from matrpo.simulation.links.history import Fault, History
from matrpo.simulation.lock_step.history import LockStepHistory, ProcessFault

AnyHistory = TypeVar("AnyHistory", History, LockStepHistory)
_AnyFault = TypeVar("_AnyFault", Fault, ProcessFault)

_MOST_TRIALS = 400


def shrink(history: AnyHistory, fails: Callable[[AnyHistory], bool]) -> AnyHistory:
    """Simplify a history step by step while it still fails, until no single step is left, or many were tried.

    Args:
        history: a failing one.
        fails: whether a history has the same violation.
    """
    trials = 0
    progress = True
    while progress and trials < _MOST_TRIALS:
        progress = False
        simpler_ones = _simpler(history) if isinstance(history, History) else _simpler_lock_step(history)
        for simpler in simpler_ones:
            trials += 1
            if fails(simpler):
                history, progress = simpler, True
                break
            if trials == _MOST_TRIALS:
                break
    return history


def _simpler(history: History) -> Iterator[History]:
    """Histories one step simpler, the largest reductions first."""
    if history.agents > 2:
        yield from (_without(history, agent) for agent in reversed(range(history.agents)))
    for f in range(len(history.faults)):
        yield replace(history, faults=history.faults[:f] + history.faults[f + 1 :])
    for e in range(len(history.links)):
        if len(history.links) > 1:
            yield replace(history, links=history.links[:e] + history.links[e + 1 :])
    for smaller in _smaller(history.iterations):
        yield replace(history, iterations=smaller)
    for smaller in _smaller(history.k):
        yield replace(history, k=smaller)
    plainer = (
        replace(history, samples=1),
        replace(history, schedule="seeded"),
        replace(history, dtype="float32"),
        replace(history, absent="wait"),
        replace(history, clocks=((0.0, 1.0),) * history.agents),
    )
    yield from (simpler for simpler in plainer if simpler != history)
    for f, fault in enumerate(history.faults):
        for milder in _milder(fault):
            yield replace(history, faults=(*history.faults[:f], milder, *history.faults[f + 1 :]))


def _simpler_lock_step(history: LockStepHistory) -> Iterator[LockStepHistory]:
    """Histories of the lock step one step simpler, the largest reductions first."""
    faults = history.faults
    for f in range(len(faults)):
        yield replace(history, faults=faults[:f] + faults[f + 1 :])
    if history.agents > 1:
        yield from (_without_process(history, f"a{agent}") for agent in reversed(range(history.agents)))
    if history.servers > 1:
        yield from (_without_process(history, f"s{server}") for server in reversed(range(history.servers)))
    yield from (replace(history, iterations=smaller) for smaller in _smaller(history.iterations))
    yield from (replace(history, steps=smaller) for smaller in _smaller(history.steps))
    plainer = (replace(history, update=0.1), replace(history, patience=1.0), replace(history, silence=5.0))
    yield from (simpler for simpler in plainer if simpler != history)
    for f, fault in enumerate(faults):
        if fault.amount >= 1 and fault.kind in ("kill", "lost"):
            yield replace(history, faults=(*faults[:f], replace(fault, amount=fault.amount - 1), *faults[f + 1 :]))
        for milder in _milder(fault):
            yield replace(history, faults=(*faults[:f], milder, *faults[f + 1 :]))


def _without_process(history: LockStepHistory, name: str) -> LockStepHistory:
    """The history without a process and whatever names it; the numbers after it move up."""
    side, number = name[0], int(name[1:])

    def moved(other: str) -> str:
        return f"{side}{int(other[1:]) - 1}" if other[0] == side and int(other[1:]) > number else other

    return replace(
        history,
        agents=history.agents - (side == "a"),
        servers=history.servers - (side == "s"),
        faults=tuple(
            replace(fault, where=tuple(map(moved, fault.where))) for fault in history.faults if name not in fault.where
        ),
    )


def _without(history: History, agent: int) -> History:
    """The history without an agent and whatever names it; the ids after it move up."""

    def moved(agents: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(other - (other > agent) for other in agents)

    return replace(
        history,
        agents=history.agents - 1,
        links=tuple((i - (i > agent), j - (j > agent)) for i, j in history.links if agent not in (i, j)),
        clocks=history.clocks[:agent] + history.clocks[agent + 1 :],
        faults=tuple(replace(fault, where=moved(fault.where)) for fault in history.faults if agent not in fault.where),
    )


def _smaller(value: int) -> list[int]:
    """Smaller values to try, from 1."""
    return sorted({1, (1 + value) // 2, value - 1} - {0, value})


def _milder(fault: _AnyFault) -> Iterator[_AnyFault]:
    """Faults that last half as long."""
    if math.isfinite(fault.stop) and fault.stop - fault.start > 0.1:
        middle = round((fault.start + fault.stop) / 2, 2)
        yield replace(fault, stop=middle)
        yield replace(fault, start=middle)
