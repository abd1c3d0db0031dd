from __future__ import annotations

import copy
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from matrpo.config import Config, ConfigError
from matrpo.launch.cluster import Cluster
from matrpo.launch.supervisor import check_ports, local_ports, make_cluster
from matrpo.run_directory import RunDirectory
from matrpo.topology import make_graph

CONTENT: dict[str, Any] = {
    "run_id": "0123",
    "config": "config.yaml",
    "environment": "ipc:///tmp/x/env",
    "agents": {
        0: {"endpoint": "ipc:///tmp/x/agent-00", "neighbours": [1, 2]},
        1: {"endpoint": "ipc:///tmp/x/agent-01", "neighbours": [0]},
        2: {"endpoint": "tcp://127.0.0.1:5603", "neighbours": [0]},
    },
}


def write(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def test_load(tmp_path: Path) -> None:
    cluster = Cluster.load(write(tmp_path / "cluster.yaml", CONTENT))
    assert cluster.graph.links == ((0, 1), (0, 2))
    assert cluster.config == tmp_path / "config.yaml"
    assert cluster.endpoints[2] == "tcp://127.0.0.1:5603"
    assert cluster.uses_tcp


@pytest.mark.parametrize("topology", ["ring", "none", "erdos-renyi:0.4"])
@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_save_then_load_gives_the_same_cluster(tmp_path: Path, topology: str, transport: str) -> None:
    run = RunDirectory.create(tmp_path / "run", Config(agents=6, topology=topology, transport=transport), {})
    graph = make_graph(topology, 6, 0)
    cluster = make_cluster(run, graph, Path("/tmp/sockets"))
    cluster.save(run.path / "cluster.yaml")
    loaded = Cluster.load(run.path / "cluster.yaml")
    assert loaded.graph.links == graph.links
    assert (loaded.run_id, loaded.config, loaded.endpoints) == (cluster.run_id, cluster.config, cluster.endpoints)
    assert loaded.uses_tcp == (transport == "tcp")


def changed(path: str, value: object) -> dict[str, Any]:
    content = copy.deepcopy(CONTENT)
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place: Any = content
    for key in parents:
        place = place[key]
    place[last] = value
    return content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "exactly the keys"),
        ({"run_id": "x"}, "exactly the keys"),
        (changed("colour", "red"), "exactly the keys"),
        (changed("run_id", 5), "run_id must be text"),
        (changed("environment", "http://x"), "environment must begin with ipc:// or tcp://"),
        (changed("agents", {}), "ids 0, 1"),
        (changed("agents", {1: CONTENT["agents"][1]}), "ids 0, 1"),
        (changed("agents.1", "x"), "agent 1 needs an endpoint and neighbours"),
        (changed("agents.1.key", "x"), "agent 1 needs an endpoint and neighbours"),
        (changed("agents.1.endpoint", None), "endpoint of agent 1 must be text"),
        (changed("agents.0.neighbours", "1"), "neighbours of agent 0 must be a list"),
        (changed("agents.0.neighbours", [9]), "neighbours of agent 0 must be a list of agents' ids"),
        (changed("agents.1.neighbours", [0, 2]), "agent 1 names 2 as a neighbour, but not the other way round"),
        (changed("agents.1.neighbours", [1, 0]), "link"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, content: object, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Cluster.load(write(tmp_path / "cluster.yaml", content))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read cluster file"):
        Cluster.load(tmp_path / "nowhere.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        Cluster.load(tmp_path / "bad.yaml")


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at port {port} of 127.0.0.1: Address already in use"):
            check_ports(local_ports(port - 1, 3))


def test_ports_end_at_65535() -> None:
    with pytest.raises(ConfigError, match="65535 is the last"):
        check_ports(local_ports(65000, 600))
