"""Lengths of schedules against counting by hand, and against a simulation of every instant."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from matrpo.experiments.planning.schedule_length import Pair, critical_path, makespan, rounds
from matrpo.topology import make_graph, seeded_sequence


@st.composite
def schedules(draw: st.DrawFn) -> tuple[int, list[Pair]]:
    agents = draw(st.integers(2, 7))
    links = [(i, j) for i in range(agents) for j in range(i + 1, agents)]
    return agents, draw(st.lists(st.sampled_from(links), max_size=25))


def simulated(agents: int, pairs: list[Pair], costs: list[int], machines: list[int], cores: int) -> int:
    """Ticks until all is done: at each, every core with work advances it; who has waited longest gets the next core."""
    left = {q: [k for k, pair in enumerate(pairs) if q in pair] for q in range(agents)}
    steps, waiting = dict.fromkeys(left, 0), [q for q in left if left[q]]
    work: dict[int, int] = {}
    done: dict[int, set[int]] = {k: set() for k in range(len(pairs))}
    ticks = 0
    while work or waiting:
        for agent in list(waiting):
            if sum(machines[other] == machines[agent] for other in work) < cores:
                waiting.remove(agent)
                work[agent] = costs[steps[agent]]
        ticks += 1
        for agent in list(work):
            work[agent] -= 1
            if work[agent]:
                continue
            del work[agent]
            steps[agent] += 1
            number = left[agent][0]
            done[number].add(agent)
            if done[number] == set(pairs[number]):
                for end in pairs[number]:
                    left[end].pop(0)
                    if left[end]:
                        waiting.append(end)
    return ticks


def rounds_by_filling(pairs: list[Pair]) -> int:
    """Put each activation into the first round after the last one of either of its agents."""
    taken: list[set[int]] = []
    for pair in pairs:
        first = max((number + 1 for number, agents in enumerate(taken) if agents & set(pair)), default=0)
        if first == len(taken):
            taken.append(set())
        taken[first] |= set(pair)
    return len(taken)


def test_rounds_by_hand() -> None:
    assert rounds([]) == 0
    assert rounds([(0, 1), (2, 3), (4, 5)]) == 1
    assert rounds([(0, 1), (1, 2), (2, 3), (0, 1)]) == 3
    assert rounds([(0, 1), (0, 2), (0, 3)]) == 3, "a star's links all end at one agent"


@given(schedules())
def test_rounds_are_those_of_filling_one_after_another(schedule: tuple[int, list[Pair]]) -> None:
    assert rounds(schedule[1]) == rounds_by_filling(schedule[1])


def test_links_of_a_large_graph_are_active_at_the_same_time() -> None:
    graph = make_graph("random-regular:4", 40, 0)
    pairs = [graph.links[link] for link in seeded_sequence(len(graph.links), 400, 0, 1)]
    assert rounds(pairs) == rounds_by_filling(pairs) < 400 / 5


@given(schedules(), st.lists(st.integers(1, 5), min_size=25, max_size=25))
def test_the_critical_path_is_what_a_simulation_with_a_core_each_takes(
    schedule: tuple[int, list[Pair]], costs: list[int]
) -> None:
    agents, pairs = schedule
    expected = simulated(agents, pairs, costs, [0] * agents, agents)
    assert critical_path(pairs, costs, [0.0] * len(pairs)) == expected
    assert makespan(pairs, costs, [0] * agents, agents) == expected


@given(schedules(), st.lists(st.integers(1, 5), min_size=25, max_size=25), st.integers(1, 3), st.integers(1, 3))
def test_the_makespan_is_between_its_bounds(
    schedule: tuple[int, list[Pair]], costs: list[int], cores: int, on_one: int
) -> None:
    """Bounds of any order of work that leaves no core idle (Graham, 1966)."""
    agents, pairs = schedule
    machines = [agent // on_one for agent in range(agents)]
    length = makespan(pairs, costs, machines, cores)
    path = critical_path(pairs, costs, [0.0] * len(pairs))
    work = [
        sum(sum(costs[: sum(agent in pair for pair in pairs)]) for agent in range(agents) if machines[agent] == machine)
        for machine in set(machines)
    ]
    assert max(path, max(work) / cores) <= length <= path + sum(work) / cores


@given(schedules(), st.lists(st.integers(1, 5), min_size=25, max_size=25))
def test_one_core_does_all_the_work_one_after_another(schedule: tuple[int, list[Pair]], costs: list[int]) -> None:
    agents, pairs = schedule
    work = sum(sum(costs[: sum(agent in pair for pair in pairs)]) for agent in range(agents))
    assert makespan(pairs, costs, [0] * agents, 1) == work == simulated(agents, pairs, costs, [0] * agents, 1)


def test_transfers_by_hand() -> None:
    assert critical_path([(0, 1)], [2.0], [0.5]) == 2.5
    # Agent 1 hears of agent 0 at 2.5, takes its next step, and agent 2, which has waited, hears of that without delay.
    assert critical_path([(0, 1), (1, 2)], [2.0, 3.0], [0.5, 0.0]) == 5.5


@given(schedules(), st.lists(st.floats(0, 9), min_size=25, max_size=25), st.floats(0, 5), st.floats(0, 5))
def test_later_messages_never_make_it_shorter(
    schedule: tuple[int, list[Pair]], costs: list[float], transfer: float, more: float
) -> None:
    pairs = schedule[1]
    short, long = (critical_path(pairs, costs, [each] * len(pairs)) for each in (transfer, transfer + more))
    assert short <= long
    assert long <= short + more * rounds(pairs) + 1e-6
