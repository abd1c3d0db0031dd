"""Reads and writes graphs as files, in the format that the suffix names:

- `.edgelist`, `.txt`: a line `i j` per link; `#` starts a comment; networkx's trailing `{...}` is ignored.
- `.graphml`: GraphML, as networkx reads it.
- `.json`: `{"agents": N, "links": [[i, j], ...]}`, or networkx's node-link format.

Agents are the integers 0 .. N-1, all of them. Links given twice are merged. Self-loops are refused, and so
are directed graphs: a link carries messages both ways.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import networkx as nx

from matrpo.topology.errors import TopologyError

SUFFIXES = (".edgelist", ".txt", ".graphml", ".json")
"""Suffixes of graph files."""

_IDS_SHOWN = 5


def read_links(path: Path, num_agents: int) -> list[tuple[int, int]]:
    """Read the links of a graph file, in the file's order and direction.

    Raises:
        TopologyError: the file cannot be read or is malformed, or its agents are not 0 .. num_agents-1.
    """
    suffix = _suffix(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TopologyError(f"cannot read graph file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TopologyError(f"cannot read graph file {path}: it is not UTF-8 text") from None
    if suffix == ".json":
        nodes, links = _parse_json(path, text)
    elif suffix == ".graphml":
        nodes, links = _parse_graphml(path, text)
    else:
        nodes, links = _parse_edge_list(path, text)
    _check(path, nodes, links, num_agents)
    return links


def write_links(path: Path, num_agents: int, links: Sequence[tuple[int, int]]) -> None:
    """Write a graph file atomically.

    Raises:
        TopologyError: an unknown suffix, or the file cannot be written.
    """
    suffix = _suffix(path)
    if suffix == ".json":
        text = json.dumps({"agents": num_agents, "links": links})
    elif suffix == ".graphml":
        graph: nx.Graph[int] = nx.empty_graph(num_agents)
        graph.add_edges_from(links)
        text = "\n".join(nx.generate_graphml(graph))
    else:
        text = "\n".join([f"# {num_agents} agents", *(f"{i} {j}" for i, j in links)])
    try:
        _write_whole(path, (text + "\n").encode())
    except OSError as error:
        raise TopologyError(f"cannot write graph file {path}: {error.strerror}") from None


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: under a temporary name beside it, which is then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise TopologyError(f"graph file {path}: the suffix must be one of {', '.join(SUFFIXES)}")
    return suffix


Parsed = tuple[set[int], list[tuple[int, int]]]


def _parse_edge_list(path: Path, text: str) -> Parsed:
    links = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.partition("#")[0].partition("{")[0].split()
        if not fields:
            continue
        where = f"{path}, line {number}"
        if len(fields) != 2:
            raise TopologyError(f"{where}: expected two agent ids, got {line.strip()!r}")
        links.append(_link(where, *fields))
    return {agent for link in links for agent in link}, links


def _parse_graphml(path: Path, text: str) -> Parsed:
    try:
        graph = nx.parse_graphml(text)
    except ParseError as error:
        raise TopologyError(f"{path}, line {error.position[0]}: not valid XML ({error.msg})") from None
    except (nx.NetworkXError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise _malformed(path, "GraphML", error) from None
    return _from_networkx(path, graph)


def _parse_json(path: Path, text: str) -> Parsed:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise TopologyError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
    except RecursionError:
        raise TopologyError(f"{path} is not a graph: nested too deeply") from None
    if isinstance(content, dict) and "nodes" in content:
        return _parse_node_link(path, content)
    if isinstance(content, dict) and "agents" in content and "links" in content:
        return _parse_plain(path, content["agents"], content["links"])
    raise TopologyError(f'{path}: expected {{"agents": N, "links": [[i, j], ...]}} or networkx\'s node-link format')


def _parse_plain(path: Path, agents: Any, links: Any) -> Parsed:
    if type(agents) is not int or not 0 < agents < 10**6:
        raise TopologyError(f"{path}: 'agents' must be a number of agents, got {agents!r:.40}")
    if not isinstance(links, list):
        raise TopologyError(f"{path}: 'links' must be a list of pairs")
    parsed = []
    for index, link in enumerate(links):
        where = f"{path}, link {index}"
        if not isinstance(link, list) or len(link) != 2:
            raise TopologyError(f"{where}: expected a pair of agent ids, got {link!r:.40}")
        parsed.append(_link(where, *link))
    return set(range(agents)), parsed


def _parse_node_link(path: Path, content: dict[str, Any]) -> Parsed:
    try:
        graph = nx.node_link_graph(content, edges="edges" if "edges" in content else "links")
    except (nx.NetworkXError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise _malformed(path, "a node-link graph", error) from None
    return _from_networkx(path, graph)


def _from_networkx(path: Path, graph: nx.Graph[Any]) -> Parsed:
    if graph.is_directed():
        raise TopologyError(f"{path} is a directed graph, but links carry messages both ways: save it undirected")
    links = [_link(str(path), i, j) for i, j in graph.edges()]
    agents = [_agent(str(path), node) for node in graph.nodes]
    if len(set(agents)) < len(agents):
        twice = next(agent for agent in agents if agents.count(agent) > 1)
        raise TopologyError(f"{path} names agent {twice} twice")
    return set(agents), links


def _link(where: str, first: Any, second: Any) -> tuple[int, int]:
    i, j = _agent(where, first), _agent(where, second)
    if i == j:
        raise TopologyError(f"{where}: agent {i} is linked with itself; remove that link")
    return i, j


def _agent(where: str, node: Any) -> int:
    if type(node) is int and node >= 0:
        return node
    if isinstance(node, str) and node.isascii() and node.isdecimal() and len(node) < 10:
        return int(node)
    raise TopologyError(f"{where}: agents are named 0, 1, 2, ..., got {node!r:.40}")


def _check(path: Path, nodes: set[int], links: list[tuple[int, int]], num_agents: int) -> None:
    named = nodes.union(*links)
    wanted = set(range(num_agents))
    if named == wanted:
        return
    if named == set(range(len(named))):
        raise TopologyError(f"{path} has {len(named)} agents, but the run has {num_agents}")
    wrong = f"{_some(named - wanted)} is unknown" if named - wanted else f"{_some(wanted - named)} is missing"
    raise TopologyError(f"{path} must name exactly the agents 0 to {num_agents - 1}: {wrong}")


def _some(ids: Iterable[int]) -> str:
    ordered = sorted(ids)
    shown = ", ".join(str(i) for i in ordered[:_IDS_SHOWN])
    return shown + (f" (and {len(ordered) - _IDS_SHOWN} more)" if len(ordered) > _IDS_SHOWN else "")


def _malformed(path: Path, kind: str, error: Exception) -> TopologyError:
    reason = str(error).replace("\n", " ")
    return TopologyError(f"{path} is not {kind}: {type(error).__name__} {reason}".rstrip())
