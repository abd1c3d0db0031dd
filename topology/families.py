"""The families of communication graphs that `--topology` names, and their constructors.

Random families draw from networkx with seeds derived from the run's seed, and redraw up to `MAX_DRAWS` times
until the graph is connected: the same parameters, number of agents and seed give the same graph wherever the
same networkx runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import networkx as nx
import numpy as np

from matrpo.topology.errors import TopologyError

MAX_DRAWS = 1000
"""Maximum number of draws of a random graph until one is connected."""

ROAD = "road"
"""The family of the one graph that a task names."""

Links = Iterable[tuple[int, int]]
Built = tuple[str, Links]


@dataclass(frozen=True)
class Topology:
    """A family of graphs.

    Attributes:
        name: what `--topology` calls it.
        parameters: its optional parameters as they follow the name, or "".
        description: one line for listings, with the parameters' defaults.
        min_agents: smallest N that it exists for.
        build: (N, parameters, seed) to the name with its parameters filled in and the links.
    """

    name: str
    parameters: str
    description: str
    min_agents: int
    build: Callable[[int, tuple[str, ...], int], Built]

    @property
    def usage(self) -> str:
        """The name with its parameters, such as small-world[:K[:P]]."""
        return self.name + self.parameters

    @property
    def max_parameters(self) -> int:
        """How many parameters may follow the name."""
        return self.parameters.count(":")


def _ring(n: int, _parameters: tuple[str, ...], _seed: int) -> Built:
    return "ring", nx.cycle_graph(n).edges


def _line(n: int, _parameters: tuple[str, ...], _seed: int) -> Built:
    return "line", nx.path_graph(n).edges


def _star(n: int, _parameters: tuple[str, ...], _seed: int) -> Built:
    return "star", nx.star_graph(n - 1).edges


def _complete(n: int, _parameters: tuple[str, ...], _seed: int) -> Built:
    return "complete", nx.complete_graph(n).edges


def _none(_n: int, _parameters: tuple[str, ...], _seed: int) -> Built:
    return "none", ()


def _road(_n: int, _parameters: tuple[str, ...], _seed: int) -> Built:
    raise TopologyError("only a task can say who is on one road, and this one does not (those of traffic/ do)")


def _grid(n: int, parameters: tuple[str, ...], _seed: int) -> Built:
    best = _most_square(n, 1)
    rows, columns = _sides("grid", n, parameters) if parameters else best
    if rows * columns != n:
        raise TopologyError(
            f"grid:{rows}x{columns} holds {rows * columns} agents, not {n}; use grid:{best[0]}x{best[1]}"
        )
    return f"grid:{rows}x{columns}", _lattice(rows, columns, periodic=False)


def _torus(n: int, parameters: tuple[str, ...], _seed: int) -> Built:
    best = _most_square(n, 3)
    hint = _torus_hint(n, best)
    if not parameters:
        if not best:
            raise TopologyError(f"{n} agents do not fill a torus, whose sides are at least 3; {hint}")
        rows, columns = best
    else:
        rows, columns = _sides("torus", n, parameters)
    if rows * columns != n:
        raise TopologyError(f"torus:{rows}x{columns} holds {rows * columns} agents, not {n}; {hint}")
    if min(rows, columns) < 3:
        raise TopologyError(f"torus:{rows}x{columns}: each side of a torus must be at least 3; {hint}")
    return f"torus:{rows}x{columns}", _lattice(rows, columns, periodic=True)


def _random_regular(n: int, parameters: tuple[str, ...], seed: int) -> Built:
    degree = _integer("random-regular:D", parameters[0]) if parameters else 4
    spec = f"random-regular:{degree}"
    if not 0 < degree < n or n * degree % 2 or (degree == 1 and n > 2):
        raise TopologyError(
            f"{spec} does not exist for {n} agents: N*D must be even and D < N (D >= 2 if N > 2); "
            f"with {n} agents {_valid_degrees(n)}, and D={degree} needs {_valid_sizes(degree)}"
        )
    return spec, _first_connected(spec, n, seed, lambda s: nx.random_regular_graph(degree, n, s), "use a larger D")


def _erdos_renyi(n: int, parameters: tuple[str, ...], seed: int) -> Built:
    default = round(min(1.0, 2 * math.log(n) / n), 3)
    probability = _probability("erdos-renyi:P", parameters[0], above_zero=True) if parameters else default
    spec = f"erdos-renyi:{probability:g}"
    hint = f"use a larger P (the default for {n} agents is {default:g})"
    return spec, _first_connected(spec, n, seed, lambda s: nx.fast_gnp_random_graph(n, probability, s), hint)


def _small_world(n: int, parameters: tuple[str, ...], seed: int) -> Built:
    k = _integer("small-world:K:P", parameters[0]) if parameters else 4
    p = _probability("small-world:K:P", parameters[1]) if len(parameters) > 1 else 0.1
    if k % 2 or not 2 <= k < n:
        largest = (n - 1) // 2 * 2
        raise TopologyError(
            f"small-world:{k} does not exist for {n} agents: K must be even, at least 2 and below N; "
            f"with {n} agents use an even K up to {largest}"
        )
    spec = f"small-world:{k}:{p:g}"
    return spec, _first_connected(
        spec, n, seed, lambda s: nx.watts_strogatz_graph(n, k, p, s), "use a larger K or a smaller P"
    )


def _first_connected(
    spec: str, n: int, seed: int, draw: Callable[[int], nx.Graph[int]], hint: str
) -> list[tuple[int, int]]:
    for attempt in range(MAX_DRAWS):
        state = np.random.SeedSequence(seed, spawn_key=(attempt,)).generate_state(1, np.uint64)
        graph = draw(int(state[0]))
        if nx.is_connected(graph):
            return list(graph.edges)
    raise TopologyError(f"{spec} gave no connected graph of {n} agents in {MAX_DRAWS} draws; {hint}")


def _lattice(rows: int, columns: int, *, periodic: bool) -> Links:
    """Links of a lattice whose agent at row r and column c is r * columns + c."""
    edges = nx.grid_2d_graph(rows, columns, periodic=periodic).edges
    return [(r * columns + c, s * columns + d) for (r, c), (s, d) in edges]


def _most_square(n: int, min_side: int) -> tuple[int, ...]:
    """The most nearly equal factors (R, C) of n, `min_side` <= R <= C; () if there are none."""
    for rows in range(math.isqrt(n), min_side - 1, -1):
        if n % rows == 0:
            return rows, n // rows
    return ()


def _torus_hint(n: int, best: tuple[int, ...]) -> str:
    if best:
        return f"use torus:{best[0]}x{best[1]}"
    sizes = [m for m in range(9, n + 4) if _most_square(m, 3)]
    below = max((m for m in sizes if m < n), default=9)
    above = min((m for m in sizes if m > n), default=9)
    rows, columns = _most_square(n, 1)
    return f"use {below} or {above} agents, or grid:{rows}x{columns}"


def _valid_degrees(n: int) -> str:
    if n <= 3:
        return f"only D={n - 1} works"
    return f"any {'even ' if n % 2 else ''}D from 2 to {n - 1} works"


def _valid_sizes(degree: int) -> str:
    if degree <= 1:
        return "N=2" if degree else "a single agent"
    return f"{'an even' if degree % 2 else 'any'} N above {degree}"


def _sides(name: str, n: int, parameters: tuple[str, ...]) -> tuple[int, int]:
    text = parameters[0]
    sides = text.split("x")
    if len(sides) != 2 or not all(_is_number(side) for side in sides):
        raise TopologyError(f"bad topology '{name}:{text}': expected {name}:RxC with R*C = {n}")
    return int(sides[0]), int(sides[1])


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def _integer(usage: str, text: str) -> int:
    if not _is_number(text):
        raise TopologyError(f"bad parameter {text!r} of {usage}: expected a whole number")
    return int(text)


def _probability(usage: str, text: str, *, above_zero: bool = False) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0 or (above_zero and value == 0.0):
        bounds = "above 0 and at most 1" if above_zero else "from 0 to 1"
        raise TopologyError(f"bad parameter {text!r} of {usage}: expected a probability {bounds}")
    return value


_FAMILIES = (
    Topology("ring", "", "Each agent is linked with the next, the last with the first.", 3, _ring),
    Topology("line", "", "A ring that lacks the link between the last agent and the first.", 2, _line),
    Topology("star", "", "Agent 0 is linked with every other agent.", 2, _star),
    Topology("complete", "", "All pairs of agents are linked.", 2, _complete),
    Topology("none", "", "No links: independent learners.", 1, _none),
    Topology(ROAD, "", "Junctions that a road joins, past no other one with lights (tasks of traffic/).", 2, _road),
    Topology("grid", "[:RxC]", "R rows of C agents (default: as square as N allows).", 2, _grid),
    Topology("torus", "[:RxC]", "A grid whose rows and columns close to rings; sides of at least 3.", 9, _torus),
    Topology("random-regular", "[:D]", "Random, D links at each agent (default 4).", 2, _random_regular),
    Topology(
        "erdos-renyi",
        "[:P]",
        "Random, each pair linked with probability P (default min(1, 2 ln N / N)).",
        2,
        _erdos_renyi,
    ),
    Topology(
        "small-world",
        "[:K[:P]]",
        "Watts-Strogatz: K nearest on a ring (default 4), each link moved with probability P (default 0.1).",
        3,
        _small_world,
    ),
)

TOPOLOGIES: dict[str, Topology] = {family.name: family for family in _FAMILIES}
"""The families by name, in the order of listings."""
