"""Shrinking of failing histories: finds a smaller one that violates the same invariant."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from matrpo.simulation.history import Fault, History

_MOST_TRIALS = 400


def shrink(history: History, fails: Callable[[History], bool]) -> History:
    """Simplify a history step by step while it still fails, until no single step is left, or many were tried.

    Args:
        history: a failing one.
        fails: whether a history has the same violation.
    """
    trials = 0
    progress = True
    while progress and trials < _MOST_TRIALS:
        progress = False
        for simpler in _simpler(history):
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


def _milder(fault: Fault) -> Iterator[Fault]:
    """Faults that last half as long."""
    if math.isfinite(fault.stop) and fault.stop - fault.start > 0.1:
        middle = round((fault.start + fault.stop) / 2, 2)
        yield replace(fault, stop=middle)
        yield replace(fault, start=middle)
