from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrpo.topology import TOPOLOGIES, CommunicationGraph, TopologyError, make_graph, save_graph

reproducible = settings(derandomize=True, deadline=None)

SPECS = [
    ("ring", 12),
    ("line", 2),
    ("star", 5),
    ("complete", 6),
    ("none", 1),
    ("none", 4),
    ("grid", 12),
    ("grid:2x6", 12),
    ("grid", 7),
    ("torus", 12),
    ("torus:4x3", 12),
    ("random-regular", 12),
    ("random-regular:3", 8),
    ("random-regular:1", 2),
    ("random-regular:2", 50),
    ("erdos-renyi", 2),
    ("erdos-renyi", 12),
    ("erdos-renyi:0.2", 12),
    ("small-world", 20),
    ("small-world:2:1", 12),
]


@st.composite
def graphs(draw: st.DrawFn) -> CommunicationGraph:
    n = draw(st.integers(1, 12))
    pairs = list(itertools.combinations(range(n), 2))
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=30)) if pairs else []
    flipped = [(j, i) if draw(st.booleans()) else (i, j) for i, j in chosen]
    return CommunicationGraph.from_links(n, flipped, "drawn")


@reproducible
@given(graphs())
def test_links_are_sorted_unique_and_signed(graph: CommunicationGraph) -> None:
    assert list(graph.links) == sorted(set(graph.links))
    for link, (i, j) in enumerate(graph.links):
        assert i < j
        assert (graph.sign(link, i), graph.sign(link, j)) == (1, -1)
        assert (graph.other_end(link, i), graph.other_end(link, j)) == (j, i)


@reproducible
@given(graphs())
def test_each_agent_knows_exactly_its_own_links(graph: CommunicationGraph) -> None:
    for agent in range(graph.num_agents):
        own = graph.links_of(agent)
        assert list(own) == [e for e, ends in enumerate(graph.links) if agent in ends]
        assert sorted(graph.neighbours(agent)) == sorted(graph.to_networkx()[agent])
        for link in set(range(len(graph.links))) - set(own):
            with pytest.raises(TopologyError, match="joins agents"):
                graph.other_end(link, agent)


@reproducible
@given(graphs())
def test_algebraic_connectivity_is_positive_just_for_connected_graphs(graph: CommunicationGraph) -> None:
    connected = nx.is_connected(graph.to_networkx())
    assert graph.is_connected == connected
    assert (graph.algebraic_connectivity() > 0) == (connected and graph.num_agents > 1)


@reproducible
@given(st.integers(3, 40))
def test_algebraic_connectivity_equals_closed_forms(n: int) -> None:
    closed_forms = {
        "ring": 2 - 2 * math.cos(2 * math.pi / n),
        "line": 2 - 2 * math.cos(math.pi / n),
        "complete": n,
        "star": 1,
    }
    for name, expected in closed_forms.items():
        assert make_graph(name, n, 0).algebraic_connectivity() == pytest.approx(expected, abs=1e-9)


@reproducible
@given(graphs())
def test_algebraic_connectivity_equals_networkx_laplacian(graph: CommunicationGraph) -> None:
    if graph.num_agents == 1:
        return
    laplacian = nx.laplacian_matrix(graph.to_networkx()).toarray().astype(float)
    expected = np.linalg.eigvalsh(laplacian)[1]
    assert graph.algebraic_connectivity() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("spec", "n"), SPECS)
@pytest.mark.parametrize("seed", [0, 7])
def test_a_graph_depends_on_its_arguments_only(spec: str, n: int, seed: int) -> None:
    graph = make_graph(spec, n, seed)
    assert graph == make_graph(spec, n, seed)
    assert graph == make_graph(graph.name, n, seed), "the full name makes the same graph"
    assert graph.num_agents == n
    assert graph.is_connected or spec == "none"


@pytest.mark.parametrize("spec", ["random-regular", "erdos-renyi", "small-world"])
def test_random_graphs_differ_between_seeds(spec: str) -> None:
    assert len({make_graph(spec, 20, seed).links for seed in range(5)}) == 5


def test_shapes() -> None:
    assert make_graph("ring", 3, 0).links == ((0, 1), (0, 2), (1, 2))
    assert make_graph("line", 4, 0).links == ((0, 1), (1, 2), (2, 3))
    assert make_graph("star", 4, 0).links == ((0, 1), (0, 2), (0, 3))
    assert len(make_graph("complete", 12, 0).links) == 66
    assert make_graph("none", 3, 0).links == ()
    assert make_graph("grid", 12, 0).name == "grid:3x4"
    assert make_graph("grid:2x3", 6, 0).links == ((0, 1), (0, 3), (1, 2), (1, 4), (2, 5), (3, 4), (4, 5))
    assert make_graph("torus", 12, 0).neighbours(0) == (1, 3, 4, 8)


def test_degrees() -> None:
    for spec, n, degree in [("torus", 20, 4), ("random-regular", 12, 4), ("random-regular:3", 10, 3)]:
        graph = make_graph(spec, n, 1)
        assert [len(graph.links_of(agent)) for agent in range(n)] == [degree] * n


@pytest.mark.parametrize(
    ("spec", "n", "message"),
    [
        ("ring", 1, "a ring needs at least 3 agents, got 1; use 'none' for a single agent"),
        ("ring", 2, "a ring needs at least 3 agents, got 2; use 'line'"),
        ("ring", 0, "at least 1 agent, got 0"),
        ("erdos-renyi", 1, "an erdos-renyi needs at least 2 agents"),
        ("torus", 8, "needs at least 9 agents"),
        ("rnig", 12, "unknown topology 'rnig': expected one of ring, .*did you mean 'ring'?"),
        ("random_regular:4", 12, "did you mean 'random-regular'"),
        ("", 12, "unknown topology ''"),
        ("ring:3", 12, "bad topology 'ring:3': expected ring$"),
        ("small-world:4:0.1:7", 12, r"expected small-world\[:K\[:P\]\]"),
        ("grid:5x2", 12, "grid:5x2 holds 10 agents, not 12; use grid:3x4"),
        ("grid:3", 12, "expected grid:RxC with R.C = 12"),
        ("grid:3x-4", 12, "expected grid:RxC"),
        ("grid:", 12, "expected grid:RxC"),
        ("torus", 10, "10 agents do not fill a torus.*use 9 or 12 agents, or grid:2x5"),
        ("torus:2x6", 12, "each side of a torus must be at least 3; use torus:3x4"),
        ("torus:3x3", 12, "holds 9 agents, not 12"),
        ("random-regular:3", 7, "with 7 agents any even D from 2 to 6 works, and D=3 needs an even N above 3"),
        ("random-regular", 4, "with 4 agents any D from 2 to 3 works, and D=4 needs any N above 4"),
        ("random-regular:0", 3, "with 3 agents only D=2 works"),
        ("random-regular:1", 6, "D=1 needs N=2"),
        ("random-regular:x", 12, "bad parameter 'x'.*whole number"),
        ("erdos-renyi:0", 12, "above 0 and at most 1"),
        ("erdos-renyi:nan", 12, "expected a probability"),
        ("erdos-renyi:often", 12, "expected a probability"),
        ("erdos-renyi:0.001", 12, "no connected graph of 12 agents in 1000 draws; use a larger P"),
        ("small-world:3", 12, "K must be even"),
        ("small-world:4", 4, "with 4 agents use an even K up to 2"),
        ("small-world:4:1.5", 12, "a probability from 0 to 1"),
        ("missing.json", 12, "cannot read graph file missing.json: No such file"),
        ("graphs/office.csv", 12, "the suffix must be one of .edgelist, .txt"),
    ],
)
def test_mistakes_are_one_clear_line(spec: str, n: int, message: str) -> None:
    with pytest.raises(TopologyError, match=message) as caught:
        make_graph(spec, n, 0)
    assert "\n" not in str(caught.value)


@reproducible
@given(st.sampled_from(sorted(TOPOLOGIES)), st.text("0123456789x:.-e ", max_size=8), st.integers(-1, 30))
def test_any_spec_makes_a_graph_or_a_topology_error(name: str, parameters: str, n: int) -> None:
    try:
        graph = make_graph(f"{name}:{parameters}" if parameters else name, n, 0)
    except TopologyError:
        return
    assert graph.num_agents == n
    assert graph.is_connected or name == "none"


@pytest.mark.parametrize("links", [((1, 0),), ((0, 0),), ((0, 3),), ((0, 2), (0, 1)), ((0, 1), (0, 1))])
def test_a_graph_refuses_links_out_of_form(links: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(TopologyError):
        CommunicationGraph(3, links, "bad")


@pytest.mark.parametrize("suffix", [".edgelist", ".txt", ".graphml", ".json"])
@pytest.mark.parametrize(("spec", "n"), [("ring", 12), ("random-regular", 12), ("line", 2)])
def test_saved_graphs_are_read_back(tmp_path: Path, suffix: str, spec: str, n: int) -> None:
    graph = make_graph(spec, n, 3)
    path = tmp_path / f"saved{suffix}"
    save_graph(graph, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "no temporary file stays"
    again = make_graph(str(path), n, 99)
    assert (again.links, again.name) == (graph.links, path.name)


def test_networkx_files_are_read(tmp_path: Path) -> None:
    graph = nx.petersen_graph()
    expected = CommunicationGraph.from_links(10, graph.edges, "").links
    nx.write_edgelist(graph, tmp_path / "data.edgelist")
    nx.write_edgelist(graph, tmp_path / "bare.txt", data=False)
    nx.write_graphml(graph, tmp_path / "p.graphml")
    (tmp_path / "new.json").write_text(json.dumps(nx.node_link_data(graph, edges="edges")))
    (tmp_path / "old.json").write_text(json.dumps(nx.node_link_data(graph, edges="links")))
    for path in tmp_path.iterdir():
        assert make_graph(str(path), 10, 0).links == expected, path.name


def test_repeated_links_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "twice.txt"
    path.write_text("# two agents\n\n0 1\n1 0  # again\n")
    assert make_graph(str(path), 2, 0).links == ((0, 1),)


GRAPHML = '<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><graph edgedefault="{}">{}</graph></graphml>'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("g.txt", "0 1\n1 2 3\n", "g.txt, line 2: expected two agent ids, got '1 2 3'"),
        ("g.txt", "0 1\n1 two\n", "g.txt, line 2: agents are named 0, 1, 2, ..., got 'two'"),
        ("g.txt", "0 1\n2 2\n", "g.txt, line 2: agent 2 is linked with itself"),
        ("g.txt", "", "g.txt has 0 agents, but the run has 3"),
        ("g.txt", "0 1\n", "g.txt has 2 agents, but the run has 3"),
        ("g.txt", "0 1\n1 2\n2 3\n", "g.txt has 4 agents, but the run has 3"),
        ("g.txt", "1 2\n2 3\n", "must name exactly the agents 0 to 2: 3 is unknown"),
        ("g.txt", "0 2\n", "must name exactly the agents 0 to 2: 1 is missing"),
        ("g.txt", "0 -1\n", "got '-1'"),
        ("g.json", "{", "g.json, line 1: not valid JSON"),
        ("g.json", "[" * 100_000, "g.json.*(not valid JSON|nested too deeply)"),
        ("g.json", "[]", "expected {"),
        ("g.json", '{"agents": 3, "links": [[0, 1]]}', "not connected: its parts are {0, 1} and {2}"),
        ("g.json", '{"agents": 4, "links": [[0, 1]]}', "has 4 agents, but the run has 3"),
        ("g.json", '{"agents": 3, "links": [[0, 1], [1]]}', "link 1: expected a pair"),
        ("g.json", '{"agents": 3, "links": [[0, true]]}', "got True"),
        ("g.json", '{"agents": 3, "links": [[0, 7]]}', "7 is unknown"),
        ("g.json", '{"agents": 3, "links": 5}', "must be a list of pairs"),
        ("g.json", '{"agents": 1e99, "links": []}', "must be a number of agents"),
        ("g.json", '{"nodes": 3}', "is not a node-link graph"),
        ("g.json", '{"directed": true, "nodes": [{"id": 0}], "edges": []}', "is a directed graph"),
        ("g.json", '{"nodes": [{"id": 0}, {"id": "0"}], "edges": []}', "names agent 0 twice"),
        ("g.graphml", "<graphml>", "g.graphml, line 1: not valid XML"),
        ("g.graphml", "<a/>", "is not GraphML"),
        ("g.graphml", GRAPHML.format("directed", '<node id="0"/>'), "is a directed graph"),
        ("g.graphml", GRAPHML.format("undirected", '<node id="n0"/>'), "got 'n0'"),
        ("g.graphml", GRAPHML.format("undirected", '<edge source="0"/>'), "got 'None'"),
    ],
)
def test_malformed_files_are_one_clear_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(TopologyError, match=message.replace("{", r"\{")) as caught:
        make_graph(str(path), 3, 0)
    assert "\n" not in str(caught.value)


@reproducible
@given(st.binary(max_size=60), st.sampled_from([".txt", ".json", ".graphml"]))
def test_any_bytes_are_a_graph_or_a_topology_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    path.write_bytes(content)
    with pytest.raises(TopologyError):
        make_graph(str(path), 40, 0)


def test_many_parts_are_summarised(tmp_path: Path) -> None:
    path = tmp_path / "parts.json"
    path.write_text(json.dumps({"agents": 12, "links": [[0, 1], [1, 2], [2, 3]]}))
    with pytest.raises(TopologyError, match=r"its parts are \{0-3\}, \{4\}, \{5\}, \{6\} and 5 more"):
        make_graph(str(path), 12, 0)


def test_a_file_of_one_agent_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text('{"agents": 1, "links": []}')
    with pytest.raises(TopologyError, match="use 'none' for a single agent"):
        make_graph(str(path), 1, 0)


def test_saving_says_why_it_cannot(tmp_path: Path) -> None:
    graph = make_graph("ring", 3, 0)
    with pytest.raises(TopologyError, match=r"cannot write graph file .*: No such file"):
        save_graph(graph, tmp_path / "absent" / "ring.json")
    with pytest.raises(TopologyError, match="the suffix must be one of"):
        save_graph(graph, tmp_path / "ring.png")
    (tmp_path / "taken.json").mkdir()
    with pytest.raises(TopologyError, match="Is a directory"):
        save_graph(graph, tmp_path / "taken.json")
    assert [p.name for p in tmp_path.iterdir()] == ["taken.json"]


def test_the_listing_is_complete() -> None:
    for name, topology in TOPOLOGIES.items():
        assert topology.name == name
        assert topology.usage.startswith(name)
        assert topology.description.endswith(".")


@pytest.mark.parametrize(
    ("spec", "agents", "diameter"),
    [
        ("ring", 12, 6),
        ("ring", 3, 1),
        ("line", 7, 6),
        ("complete", 9, 1),
        ("star", 9, 2),
        ("grid:3x4", 12, 5),
        ("none", 4, 0),
    ],
)
def test_diameters(spec: str, agents: int, diameter: int) -> None:
    assert make_graph(spec, agents, 0).diameter() == diameter


@pytest.mark.parametrize("spec", ["ring", "line", "star", "complete", "none"])
def test_metropolis_weights_average_neighbours_and_keep_the_mean(spec):
    graph = make_graph(spec, 5, 0)
    weights = graph.metropolis_weights()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    np.testing.assert_array_equal(weights, weights.T)
    assert (weights >= 0).all()
    for i in range(5):
        assert set(np.flatnonzero(weights[i])) <= {i, *graph.neighbours(i)}
    if spec != "none":
        np.testing.assert_allclose(np.linalg.matrix_power(weights, 300), 0.2, atol=1e-6)


def test_a_task_s_roads_have_to_connect_its_agents() -> None:
    graph = make_graph("road", 3, 0, neighbours=[(1, 2), (0, 1)])
    assert (graph.name, graph.links) == ("road", ((0, 1), (1, 2)))
    with pytest.raises(TopologyError, match=r"road is not connected: its parts are \{0, 1\} and \{2\}; take another"):
        make_graph("road", 3, 0, neighbours=[(0, 1)])
    with pytest.raises(TopologyError, match="needs at least 2 agents, got 1; use 'none'"):
        make_graph("road", 1, 0, neighbours=[])
    with pytest.raises(TopologyError, match="bad topology 'road:2': expected road"):
        make_graph("road:2", 3, 0, neighbours=[(0, 1), (1, 2)])
