"""The cluster file: endpoint and public key of each process, and the communication graph. Every process reads it."""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import socket
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
import zmq

from matrpo.errors import ConfigError
from matrpo.launch.cluster.keyring import PLAIN, Keyring, Security
from matrpo.launch.cluster.keys import is_public_key, key_path, load_pair
from matrpo.runs.process_id import ProcessId, in_order_of_ports
from matrpo.runs.storage import write_crash_safely
from matrpo.topology import CommunicationGraph, TopologyError

FILE_NAME = "cluster.yaml"

_KEYS = ("run_id", "config", "environment", "agents")
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True)
class PublicKeys:
    """The CURVE public keys of all processes, in Z85: each agent's by id, and one that environment servers share."""

    agents: tuple[str, ...]
    environment: str

    def of(self, process: ProcessId) -> str:
        """The public key of a process."""
        return self.environment if process.is_server else self.agents[process.number]

    def replace(self, process: ProcessId, public: str) -> PublicKeys:
        """A copy in which one process has another public key."""
        if process.is_server:
            return dataclasses.replace(self, environment=public)
        agents = tuple(public if agent == process.number else key for agent, key in enumerate(self.agents))
        return dataclasses.replace(self, agents=agents)


@dataclass(frozen=True)
class Cluster:
    """The content of a cluster file: endpoints, communication graph and public keys of a run's processes.

    Attributes:
        run_id: marks every message; those of another run are refused. See `new_run_id`.
        config: the run's config.yaml; its folder is the run directory.
        endpoints: where each process listens.
        graph: who talks to whom.
        keys: who is who over TCP; None if the run goes without.
        insecure: the user agreed to TCP without keys. Not in the file: it must be said by everyone.
    """

    run_id: str
    config: Path
    endpoints: Mapping[ProcessId, str]
    graph: CommunicationGraph
    keys: PublicKeys | None = None
    insecure: bool = False

    @property
    def identity(self) -> str | None:
        """The run directory's identity; None if the run id does not say it."""
        identity, dash, _ = self.run_id.partition("-")
        return identity if dash else None

    @property
    def processes(self) -> list[ProcessId]:
        """All processes: the environment servers, and the agents by id."""
        return sorted(self.endpoints)

    @property
    def servers(self) -> tuple[str, ...]:
        """Every environment server's endpoint, by its number."""
        return tuple(self.endpoints[process] for process in self.processes if process.is_server)

    @property
    def agents(self) -> tuple[str, ...]:
        """Every agent's endpoint, by its id."""
        return tuple(self.endpoints[process] for process in self.processes if not process.is_server)

    @property
    def file(self) -> Path:
        """The cluster file of the run."""
        return self.config.parent / FILE_NAME

    @property
    def uses_tcp(self) -> bool:
        """Whether any process listens on TCP."""
        return any(endpoint.startswith("tcp:") for endpoint in self.endpoints.values())

    @property
    def on_one_machine(self) -> int:
        """How many processes are sure to share one machine's cores."""
        return 1 if self.uses_tcp else len(self.endpoints)

    def save(self, path: Path) -> None:
        """Write the cluster file, beside config.yaml.

        Raises:
            StorageError: the disk is full or read-only.
        """
        keys = self.keys
        server, *more = self.servers
        agents = {
            agent: _entry(endpoint, keys.agents[agent] if keys else None)
            | {"neighbours": list(self.graph.neighbours(agent))}
            for agent, endpoint in enumerate(self.agents)
        }
        content = {
            "run_id": self.run_id,
            "config": self.config.name,
            "environment": _entry(server, keys.environment if keys else None) | ({"more": more} if more else {}),
            "agents": agents,
        }
        write_crash_safely(path, yaml.safe_dump(content, sort_keys=False).encode())

    @classmethod
    def load(cls, path: Path) -> Cluster:
        """Read a cluster file.

        Raises:
            ConfigError: it cannot be read or is not valid; the text names the key.
        """
        content = _read(path)
        agents = content["agents"]
        if not isinstance(agents, dict) or list(agents) != list(range(len(agents))) or not agents:
            raise ConfigError(f"{path}: agents must map the ids 0, 1, ... to endpoint, key and neighbours")
        names = {"environment": content["environment"]} | {f"agent {agent}": entry for agent, entry in agents.items()}
        for name, entry in names.items():
            expected = {"endpoint"} if name == "environment" else {"endpoint", "neighbours"}
            optional = {"key", "more"} if name == "environment" else {"key"}
            if not isinstance(entry, dict) or set(entry) - optional != expected:
                raise ConfigError(f"{path}: {name} needs {' and '.join(sorted(expected))}, a key, and nothing else")
        own = [_endpoint(path, name, entry["endpoint"]) for name, entry in names.items()]
        more = _more(path, content["environment"].get("more", []))
        _check_distinct(path, "endpoint", {**dict(zip(names, own, strict=True)), **more})
        order = in_order_of_ports(len(agents), 1 + len(more))
        return cls(
            run_id=_text(path, "run_id", content["run_id"]),
            config=path.parent / _file_name(path, content["config"]),
            endpoints=dict(zip(order, (*own, *more.values()), strict=True)),
            graph=_graph(path, [entry["neighbours"] for entry in agents.values()]),
            keys=_public_keys(path, names),
        )

    def security(self, process: ProcessId) -> Security | None:
        """A process's keys for TCP, or the agreement to go without; None if the run uses no TCP.

        Raises:
            ConfigError: its secret key cannot be used, or there are no keys and nobody agreed to go without.
        """
        if not self.uses_tcp:
            return None
        if self.keys is None:
            if not self.insecure:
                raise ConfigError(
                    f"{self.file} has no keys: anyone who reaches its TCP ports could join in; "
                    "make them with `matrpo cluster init`, or add --insecure to go on without"
                )
            return PLAIN
        pair = load_pair(key_path(self.file, process), self.keys.of(process), self.file)
        return Keyring(pair.public, pair.secret, self.keys.agents, self.keys.environment)

    def dials(self, process: ProcessId) -> list[ProcessId]:
        """The processes that a process connects to: all servers and neighbours of higher id, if it is an agent."""
        if process.is_server:
            return []
        servers = [other for other in self.endpoints if other.is_server]
        neighbours = self.graph.neighbours(process.number)
        return [*servers, *(ProcessId.agent(other) for other in neighbours if other > process.number)]

    def dialled_by(self, process: ProcessId) -> list[ProcessId]:
        """The processes that connect to a process: all agents to a server, neighbours of lower id to an agent."""
        if process.is_server:
            return [other for other in self.endpoints if not other.is_server]
        return [ProcessId.agent(other) for other in self.graph.neighbours(process.number) if other < process.number]

    def check_hosts(self, process: ProcessId) -> None:
        """Check that the host names of all processes that a process dials can be resolved.

        Raises:
            ConfigError: one is not.
        """
        for other in self.dials(process):
            name = "the environment server" if other == ProcessId.server() else other.name
            check_host(self.file, name, self.endpoints[other])


def new_run_id(identity: str | None) -> str:
    """A new run id: the run directory's identity, if it has one, a dash, and what no other launch has."""
    return secrets.token_hex(8) if identity is None else f"{identity}-{secrets.token_hex(4)[1:]}"


def check_host(path: Path, name: str, endpoint: str) -> None:
    """Check that the host name of a TCP endpoint can be resolved to an address.

    Raises:
        ConfigError: its name cannot be resolved here.
    """
    if not endpoint.startswith("tcp:"):
        return
    host = host_of(endpoint)
    try:
        socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"{path}: the host {host!r} of {name} cannot be resolved: {error.strerror}") from None


def host_of(endpoint: str) -> str:
    """The host of a TCP endpoint."""
    return endpoint.removeprefix("tcp://").rpartition(":")[0]


def port_of(endpoint: str) -> int:
    """The port of a TCP endpoint."""
    return int(endpoint.rpartition(":")[2])


class _StrictLoader(yaml.SafeLoader):
    """A YAML loader that refuses duplicate keys: the second would silently replace the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build the mapping of a node, with distinct keys."""
        counts = Counter(self.construct_object(key, deep=True) for key, _ in node.value)
        repeated = [key for key, count in counts.items() if count > 1]
        if repeated:
            raise yaml.constructor.ConstructorError(problem=f"{repeated[0]!r} is there twice")
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(), _StrictLoader)
    except OSError as error:
        raise ConfigError(f"cannot read cluster file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not a valid cluster file: {reason}") from None
    if not isinstance(content, dict) or set(content) != set(_KEYS):
        raise ConfigError(f"{path} must hold exactly the keys {', '.join(_KEYS)}")
    return content


def _entry(endpoint: str, key: str | None) -> dict[str, Any]:
    return {"endpoint": endpoint} if key is None else {"endpoint": endpoint, "key": key}


def _graph(path: Path, neighbours: Sequence[Any]) -> CommunicationGraph:
    everyone = range(len(neighbours))
    for agent, others in enumerate(neighbours):
        if not isinstance(others, list) or any(type(other) is not int or other not in everyone for other in others):
            raise ConfigError(f"{path}: the neighbours of agent {agent} must be a list of agents' ids")
        if len(set(others)) < len(others):
            raise ConfigError(f"{path}: agent {agent} names a neighbour twice")
        for other in others:
            if not isinstance(neighbours[other], list) or agent not in neighbours[other]:
                raise ConfigError(f"{path}: agent {agent} names {other} as a neighbour, but not the other way round")
    links = ((agent, other) for agent, others in enumerate(neighbours) for other in others)
    try:
        return CommunicationGraph.from_links(len(neighbours), links, path.name)
    except TopologyError as error:
        raise ConfigError(f"{path}: {error}") from None


def _public_keys(path: Path, entries: dict[str, Any]) -> PublicKeys | None:
    """Parse the public keys of all processes; None if the file has none."""
    keyless = [name for name, entry in entries.items() if "key" not in entry]
    if len(keyless) == len(entries):
        return None
    if keyless:
        raise ConfigError(f"{path}: {keyless[0]} has no key, but others have")
    for name, entry in entries.items():
        if not is_public_key(entry["key"]):
            raise ConfigError(f"{path}: the key of {name} must be a public key: 40 characters of Z85")
    server, *agents = [entry["key"] for entry in entries.values()]
    _check_distinct(path, "key", {name: entry["key"] for name, entry in entries.items()})
    return PublicKeys(tuple(agents), server)


def _more(path: Path, endpoints: Any) -> dict[str, str]:
    """Parse the endpoints of further environment servers, by the servers' names in error messages."""
    if not isinstance(endpoints, list):
        raise ConfigError(f"{path}: more of environment must be a list of endpoints")
    names = [f"environment server {server}" for server in range(1, len(endpoints) + 1)]
    return {name: _endpoint(path, name, endpoint) for name, endpoint in zip(names, endpoints, strict=True)}


def _check_distinct(path: Path, what: str, values: dict[str, str]) -> None:
    owners: dict[str, str] = {}
    for name, value in values.items():
        if value in owners:
            raise ConfigError(f"{path}: {name} has the same {what} as {owners[value]}")
        owners[value] = name


def _text(path: Path, name: str, value: Any) -> str:
    if type(value) is not str or not 0 < len(value) <= 255:
        raise ConfigError(f"{path}: {name} must be text of 1 to 255 characters")
    return value


def _file_name(path: Path, value: Any) -> str:
    name = _text(path, "config", value)
    if name != Path(name).name:
        raise ConfigError(f"{path}: config must name a file beside the cluster file, not {name!r}")
    return name


def _endpoint(path: Path, name: str, value: Any) -> str:
    endpoint = _text(path, f"the endpoint of {name}", value)
    if endpoint.startswith("ipc://"):
        if not 0 < len(os.fsencode(endpoint.removeprefix("ipc://"))) <= zmq.IPC_PATH_MAX_LEN:
            longest = f"a path of at most {zmq.IPC_PATH_MAX_LEN} bytes"
            raise ConfigError(f"{path}: the endpoint of {name} must name a socket by {longest}")
        return endpoint
    if not endpoint.startswith("tcp://"):
        raise ConfigError(f"{path}: the endpoint of {name} must begin with ipc:// or tcp://, not {endpoint!r}")
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(f"{path}: the endpoint of {name} must end with a port from 1 to 65535, not {endpoint!r}")
    if not is_host(host):
        raise ConfigError(f"{path}: the endpoint of {name} must name a host or an IPv4 address, not {host!r}")
    return endpoint


def is_host(host: str) -> bool:
    """Whether text is a valid host name or IPv4 address."""
    if host.replace(".", "").isdecimal():
        try:
            socket.inet_pton(socket.AF_INET, host)
        except OSError:
            return False
        return True
    return bool(_HOST.fullmatch(host))
