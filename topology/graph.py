"""The communication graph of a run: its links, their orientation, and its construction from `--topology`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import networkx as nx
import numpy as np

from matrpo.topology.errors import TopologyError
from matrpo.topology.families import ROAD, TOPOLOGIES, Topology
from matrpo.topology.files import SUFFIXES, read_links, write_links

__all__ = ["TOPOLOGIES", "CommunicationGraph", "Topology", "TopologyError", "make_graph", "save_graph"]

_COMPONENTS_SHOWN = 5


@dataclass(frozen=True)
class CommunicationGraph:
    """An undirected graph without self-loops over agents 0 .. num_agents-1.

    Attributes:
        num_agents: N.
        links: the links (i, j), i < j, sorted and unique. A link's index in this tuple names it everywhere.
        name: the spec that makes this graph, its parameters filled in (`grid:3x4`), or the name of its file.
    """

    num_agents: int
    links: tuple[tuple[int, int], ...]
    name: str

    def __post_init__(self) -> None:
        if self.num_agents < 1:
            raise TopologyError(f"a graph needs at least 1 agent, got {self.num_agents}")
        for i, j in self.links:
            if not 0 <= i < j < self.num_agents:
                raise TopologyError(f"link ({i}, {j}) must join i < j, both from 0 to {self.num_agents - 1}")
        if any(a >= b for a, b in zip(self.links, self.links[1:], strict=False)):
            raise TopologyError("links must be sorted and unique")

    @classmethod
    def from_links(cls, num_agents: int, links: Iterable[tuple[int, int]], name: str) -> CommunicationGraph:
        """Build a graph from links in any order and direction; repeated ones are merged."""
        ordered = sorted({(min(i, j), max(i, j)) for i, j in links})
        return cls(num_agents, tuple(ordered), name)

    def links_of(self, agent: int) -> tuple[int, ...]:
        """E(q), the links of an agent: the ascending indices of those that end at `agent`."""
        return self._links_by_agent[agent]

    def neighbours(self, agent: int) -> tuple[int, ...]:
        """The agents at the other ends of `links_of(agent)`, in the same order."""
        return tuple(self.other_end(link, agent) for link in self.links_of(agent))

    def other_end(self, link: int, agent: int) -> int:
        """The agent that `link` joins with `agent`.

        Raises:
            TopologyError: the link does not end at `agent`.
        """
        i, j = self.links[link]
        if agent not in (i, j):
            raise TopologyError(f"link {link} joins agents {i} and {j}, not {agent}")
        return j if agent == i else i

    def sign(self, link: int, agent: int) -> int:
        """Orientation sign C_e^q of (22): +1 at the link's smaller id and -1 at its larger.

        Raises:
            TopologyError: the link does not end at `agent`.
        """
        return 1 if agent < self.other_end(link, agent) else -1

    @cached_property
    def components(self) -> tuple[tuple[int, ...], ...]:
        """The connected components, each a sorted tuple of agents, ordered by their smallest agent."""
        return tuple(sorted(tuple(sorted(part)) for part in nx.connected_components(self.to_networkx())))

    @property
    def is_connected(self) -> bool:
        """Whether every agent reaches every other one over links."""
        return len(self.components) == 1

    def algebraic_connectivity(self) -> float:
        """Second smallest eigenvalue of the Laplacian: how fast consensus can spread.

        Exactly 0 for an unconnected graph and for a single agent, positive otherwise.
        """
        if self.num_agents == 1 or not self.is_connected:
            return 0.0
        laplacian = np.zeros((self.num_agents, self.num_agents))
        for i, j in self.links:
            laplacian[i, j] = laplacian[j, i] = -1.0
        np.fill_diagonal(laplacian, -laplacian.sum(axis=1))
        return float(np.linalg.eigvalsh(laplacian)[1])

    def metropolis_weights(self) -> np.ndarray:
        """Metropolis weights of average consensus, (N, N): symmetric, rows of sum 1, 0 but for neighbours and oneself.

        1 / (1 + the larger degree) for each link, the rest for oneself (Xiao, Boyd and Kim, 2007): repeated averages
        converge to the mean of each connected part.
        """
        degrees = [len(self.links_of(agent)) for agent in range(self.num_agents)]
        weights = np.zeros((self.num_agents, self.num_agents))
        for i, j in self.links:
            weights[i, j] = weights[j, i] = 1.0 / (1.0 + max(degrees[i], degrees[j]))
        np.fill_diagonal(weights, 1.0 - weights.sum(axis=1))
        return weights

    def diameter(self) -> int:
        """Links on the longest of the shortest paths between two agents, each component by itself; 0 without links."""
        graph = self.to_networkx()
        return max(int(nx.diameter(graph.subgraph(component))) for component in self.components)

    def to_networkx(self) -> nx.Graph[int]:
        """The same graph as a networkx graph with integer nodes."""
        graph: nx.Graph[int] = nx.empty_graph(self.num_agents)
        graph.add_edges_from(self.links)
        return graph

    @cached_property
    def _links_by_agent(self) -> tuple[tuple[int, ...], ...]:
        links: list[list[int]] = [[] for _ in range(self.num_agents)]
        for index, (i, j) in enumerate(self.links):
            links[i].append(index)
            links[j].append(index)
        return tuple(tuple(indices) for indices in links)


def make_graph(
    spec: str, num_agents: int, seed: int, neighbours: Sequence[tuple[int, int]] | None = None
) -> CommunicationGraph:
    """Make the graph that `spec` describes: a function of the arguments (and a file's content) only.

    Args:
        spec: a name of `TOPOLOGIES` with its parameters after colons (`ring`, `grid:3x4`), or the path of a
            graph file (`.edgelist`, `.txt`, `.graphml`, `.json`; see `matrpo.topology.files`).
        num_agents: N; a graph file must have as many.
        seed: chooses among the graphs of a random family (at least 0).
        neighbours: the links of `road`, if the task knows them.

    Raises:
        TopologyError: an unknown name, a bad parameter, a number of agents that does not fit, a file that
            cannot be read, or a graph that is not connected (`none` alone may be so).
    """
    if num_agents < 1:
        raise TopologyError(f"a graph needs at least 1 agent, got {num_agents}")
    file = Path(spec) if _is_path(spec) else None
    graph = _from_file(file, num_agents) if file else _from_family(spec, num_agents, seed, neighbours)
    if not graph.is_connected and graph.name != "none":
        hint = "take another graph" if graph.name == ROAD else "add links between them"
        raise TopologyError(f"{graph.name} is not connected: {_describe_parts(graph)}; {hint}")
    return graph


def save_graph(graph: CommunicationGraph, path: Path) -> None:
    """Write the graph in the format that the suffix names, such that `make_graph` reads it back.

    Raises:
        TopologyError: an unknown suffix, or the file cannot be written.
    """
    write_links(path, graph.num_agents, graph.links)


def _is_path(spec: str) -> bool:
    return "/" in spec or Path(spec).suffix.lower() in SUFFIXES


def _from_file(path: Path, num_agents: int) -> CommunicationGraph:
    links = read_links(path, num_agents)
    if num_agents == 1:
        raise TopologyError("a graph file needs at least 2 agents, got 1; use 'none' for a single agent")
    return CommunicationGraph.from_links(num_agents, links, path.name)


def _from_family(
    spec: str, num_agents: int, seed: int, neighbours: Sequence[tuple[int, int]] | None
) -> CommunicationGraph:
    name, *parameters = spec.split(":")
    if name not in TOPOLOGIES:
        raise TopologyError(_unknown(name))
    family = TOPOLOGIES[name]
    if num_agents < family.min_agents:
        article = "an" if name[0] in "aeiou" else "a"
        hint = "'none' for a single agent" if num_agents == 1 else "'line'"
        raise TopologyError(f"{article} {name} needs at least {family.min_agents} agents, got {num_agents}; use {hint}")
    if len(parameters) > family.max_parameters:
        raise TopologyError(f"bad topology {spec!r}: expected {family.usage}")
    if name == ROAD and neighbours is not None:
        return CommunicationGraph.from_links(num_agents, neighbours, ROAD)
    full_name, links = family.build(num_agents, tuple(parameters), seed)
    return CommunicationGraph.from_links(num_agents, links, full_name)


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, TOPOLOGIES, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    names = ", ".join(TOPOLOGIES)
    return f"unknown topology {name!r}: expected one of {names}, or a file ({', '.join(SUFFIXES)}){hint}"


def _describe_parts(graph: CommunicationGraph) -> str:
    parts = [f"{{{_ranges(part)}}}" for part in graph.components]
    if len(parts) > _COMPONENTS_SHOWN:
        parts = [*parts[: _COMPONENTS_SHOWN - 1], f"{len(parts) - _COMPONENTS_SHOWN + 1} more"]
    return "its parts are " + ", ".join(parts[:-1]) + " and " + parts[-1]


def _ranges(ids: tuple[int, ...]) -> str:
    """Sorted numbers with runs of three and more shortened: `0, 1, 4-9`."""
    runs: list[list[int]] = []
    for number in ids:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)
