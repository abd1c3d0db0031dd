"""Duration of a schedule of link activations, computed from the cost of local steps, without running it.

Algorithm 1 activates one link after another; links without a common end run at the same time. An agent turns to its
next activation when the last is over: it takes its local step, and waits for the log ratios of the other end.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence

Pair = tuple[int, int]
"""The two agents at the ends of an activated link."""


def critical_path(pairs: Sequence[Pair], costs: Sequence[float], transfers: Sequence[float]) -> float:
    """Critical path: seconds until the last activation is over, where every agent has a processor to itself.

    Args:
        pairs: the activations of an iteration, in their order.
        costs: seconds of an agent's first, second, ... local step.
        transfers: of each activation, seconds from the end of a step until the other end has its log ratios.
    """
    free: dict[int, float] = {}
    steps: dict[int, int] = {}
    for (i, j), transfer in zip(pairs, transfers, strict=True):
        done_i, done_j = (free.get(q, 0.0) + costs[steps.get(q, 0)] for q in (i, j))
        free[i], free[j] = max(done_i, done_j + transfer), max(done_j, done_i + transfer)
        steps[i], steps[j] = steps.get(i, 0) + 1, steps.get(j, 0) + 1
    return max(free.values(), default=0.0)


def rounds(pairs: Sequence[Pair]) -> int:
    """The least number of rounds in which the activations can be made, an agent taking part in at most one a round."""
    return round(critical_path(pairs, [1.0] * len(pairs), [0.0] * len(pairs)))


def makespan(pairs: Sequence[Pair], costs: Sequence[float], machines: Sequence[int], cores: int) -> float:
    """Makespan: as `critical_path` without transfers, where agents share processors: first come, first served.

    Args:
        pairs, costs: as of `critical_path`.
        machines: which machine each agent is on.
        cores: processors of each machine.
    """
    turns: dict[int, list[int]] = {}
    for number, pair in enumerate(pairs):
        for agent in pair:
            turns.setdefault(agent, []).append(number)
    idle = dict.fromkeys(machines, cores)
    queues: dict[int, deque[int]] = {machine: deque() for machine in idle}
    steps = dict.fromkeys(turns, 0)
    half_done = [False] * len(pairs)
    running: list[tuple[float, int, int]] = []
    now, started = 0.0, 0
    for agent in sorted(turns):
        queues[machines[agent]].append(agent)
    touched = set(idle)
    while True:
        for machine in sorted(touched):
            while idle[machine] and queues[machine]:
                agent = queues[machine].popleft()
                idle[machine] -= 1
                heapq.heappush(running, (now + costs[steps[agent]], started, agent))
                started += 1
        if not running:
            return now
        now, _, agent = heapq.heappop(running)
        idle[machines[agent]] += 1
        touched = {machines[agent]}
        number = turns[agent][steps[agent]]
        steps[agent] += 1
        if not half_done[number]:
            half_done[number] = True
            continue
        for end in pairs[number]:
            if steps[end] < len(turns[end]):
                queues[machines[end]].append(end)
                touched.add(machines[end])
