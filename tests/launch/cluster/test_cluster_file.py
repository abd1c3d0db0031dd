from __future__ import annotations

import copy
import dataclasses
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from matrpo.errors import ConfigError
from matrpo.launch.cluster.cluster_file import Cluster, PublicKeys
from matrpo.launch.cluster.keys import KeyPair
from matrpo.launch.processes.supervisor import check_ports, local_ports, make_cluster
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import Config
from matrpo.topology import make_graph

CONTENT: dict[str, Any] = {
    "run_id": "0123",
    "config": "config.yaml",
    "environment": {"endpoint": "ipc:///tmp/x/env"},
    "agents": {
        0: {"endpoint": "ipc:///tmp/x/agent-00", "neighbours": [1, 2]},
        1: {"endpoint": "ipc:///tmp/x/agent-01", "neighbours": [0]},
        2: {"endpoint": "tcp://127.0.0.1:5603", "neighbours": [0]},
    },
}

KEYS = [KeyPair.make().public for _ in range(4)]


def write(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def test_load(tmp_path: Path) -> None:
    cluster = Cluster.load(write(tmp_path / "cluster.yaml", CONTENT))
    assert cluster.graph.links == ((0, 1), (0, 2))
    assert cluster.config == tmp_path / "config.yaml"
    assert cluster.agents[2] == "tcp://127.0.0.1:5603"
    assert cluster.uses_tcp
    assert cluster.keys is None


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


def with_keys(*keys: object) -> dict[str, Any]:
    content = copy.deepcopy(CONTENT)
    entries = [content["environment"], *content["agents"].values()]
    for entry, key in zip(entries, keys, strict=True):
        if key is not None:
            entry["key"] = key
    return content


def test_keys_are_kept(tmp_path: Path) -> None:
    cluster = Cluster.load(write(tmp_path / "cluster.yaml", with_keys(*KEYS)))
    assert cluster.keys == PublicKeys(tuple(KEYS[1:]), KEYS[0])
    cluster.save(tmp_path / "again.yaml")
    assert Cluster.load(tmp_path / "again.yaml") == dataclasses.replace(
        cluster, graph=Cluster.load(tmp_path / "again.yaml").graph
    )


def test_further_environment_servers_have_addresses_of_their_own(tmp_path: Path) -> None:
    more = ["tcp://10.0.0.1:5610", "ipc:///tmp/x/env-2"]
    cluster = Cluster.load(write(tmp_path / "cluster.yaml", changed("environment.more", more)))
    assert cluster.servers == ("ipc:///tmp/x/env", *more)
    names = ["env-server", "env-server 1", "env-server 2", "agent 0", "agent 1", "agent 2"]
    assert [process.name for process in cluster.processes] == names
    cluster.save(tmp_path / "again.yaml")
    assert Cluster.load(tmp_path / "again.yaml").servers == cluster.servers


def test_of_two_neighbours_the_lower_id_dials_and_agents_dial_every_server(tmp_path: Path) -> None:
    cluster = Cluster.load(write(tmp_path / "cluster.yaml", changed("environment.more", ["ipc:///tmp/x/env-1"])))
    dials = {process.name: [other.name for other in cluster.dials(process)] for process in cluster.processes}
    servers = ["env-server", "env-server 1"]
    agents = {"agent 0": [*servers, "agent 1", "agent 2"], "agent 1": servers, "agent 2": servers}
    assert dials == {**agents, "env-server": [], "env-server 1": []}
    assert [process.name for process in cluster.dialled_by(ProcessId.server(1))] == list(agents)
    assert cluster.dialled_by(ProcessId.agent(2)) == [ProcessId.agent(0)]


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
        (changed("config", "../config.yaml"), "config must name a file beside"),
        (changed("environment", "ipc:///tmp/env"), "environment needs endpoint, a key, and nothing else"),
        (changed("environment.more", "tcp://x:1"), "more of environment must be a list"),
        (changed("environment.more", ["tcp://x"]), "environment server 1 must end with a port"),
        (
            changed("environment.more", ["ipc:///tmp/x/env"]),
            "environment server 1 has the same endpoint as environment",
        ),
        (changed("environment.endpoint", "http://x"), "environment must begin with ipc:// or tcp://"),
        (changed("environment.endpoint", "tcp://x"), "environment must end with a port from 1 to 65535"),
        (changed("environment.endpoint", "tcp://x:0"), "environment must end with a port from 1 to 65535"),
        (changed("environment.endpoint", "tcp://x:65536"), "environment must end with a port from 1 to 65535"),
        (changed("environment.endpoint", "tcp://:5600"), "must name a host or an IPv4 address, not ''"),
        (changed("environment.endpoint", "tcp://10.0.0.256:5600"), "must name a host or an IPv4 address"),
        (changed("environment.endpoint", "tcp://a b:5600"), "must name a host or an IPv4 address"),
        (changed("environment.endpoint", f"tcp://{'x' * 64}:5600"), "must name a host or an IPv4 address"),
        (changed("environment.endpoint", "tcp://-x:5600"), "must name a host or an IPv4 address"),
        (changed("environment.endpoint", "ipc://"), "must name a socket"),
        (changed("environment.endpoint", f"ipc:///tmp/{'ü' * 60}"), "must name a socket by a path of at most"),
        (changed("agents.1.endpoint", "ipc:///tmp/x/env"), "agent 1 has the same endpoint as environment"),
        (with_keys(KEYS[0], KEYS[1], None, KEYS[3]), "agent 1 has no key, but others have"),
        (with_keys(None, *KEYS[1:]), "environment has no key, but others have"),
        (with_keys(KEYS[0], KEYS[1], "secret", KEYS[3]), "key of agent 1 must be a public key: 40 characters"),
        (with_keys(KEYS[0], KEYS[1], KEYS[2], KEYS[1]), "agent 2 has the same key as agent 0"),
        (changed("agents", {}), "ids 0, 1"),
        (changed("agents", {1: CONTENT["agents"][1]}), "ids 0, 1"),
        (changed("agents.1", "x"), "agent 1 needs endpoint and neighbours"),
        (changed("agents.1.colour", "x"), "agent 1 needs endpoint and neighbours"),
        (changed("agents.1.endpoint", None), "endpoint of agent 1 must be text"),
        (changed("agents.0.neighbours", "1"), "neighbours of agent 0 must be a list"),
        (changed("agents.0.neighbours", [9]), "neighbours of agent 0 must be a list of agents' ids"),
        (changed("agents.1.neighbours", [0, 2]), "agent 1 names 2 as a neighbour, but not the other way round"),
        (changed("agents.1.neighbours", [1, 0]), "link"),
        (changed("agents.1.neighbours", [0, 0]), "agent 1 names a neighbour twice"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, content: object, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Cluster.load(write(tmp_path / "cluster.yaml", content))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read cluster file"):
        Cluster.load(tmp_path / "nowhere.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not a valid cluster file"):
        Cluster.load(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("agents: {0: {}, 1: {}, 0: {}}")
    with pytest.raises(ConfigError, match=r"bad.yaml is not a valid cluster file: 0 is there twice"):
        Cluster.load(tmp_path / "bad.yaml")


def test_an_unknown_host_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:  # a real look-up takes ten seconds where there is no name server
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    content = changed("environment.endpoint", "tcp://no-such-host.invalid:5600")
    cluster = Cluster.load(write(tmp_path / "cluster.yaml", content))
    with pytest.raises(ConfigError, match=r"'no-such-host.invalid' of the environment server cannot be resolved: Name"):
        cluster.check_hosts(ProcessId.agent(1))
    cluster.check_hosts(ProcessId.server())


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
