"""The cluster file: which process is where, and who talks to whom. A run as data, read by every process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from matrpo.config import ConfigError
from matrpo.process_directory import write_atomically
from matrpo.topology import CommunicationGraph, TopologyError

FILE_NAME = "cluster.yaml"

_KEYS = ("run_id", "config", "environment", "agents")


@dataclass(frozen=True)
class Cluster:
    """Where the processes of a run are.

    Attributes:
        run_id: marks every message; those of another run are refused.
        config: the run's config.yaml; its folder is the run directory.
        environment: the environment server's endpoint.
        endpoints: every agent's endpoint, by id.
        graph: who talks to whom.
    """

    run_id: str
    config: Path
    environment: str
    endpoints: tuple[str, ...]
    graph: CommunicationGraph

    @property
    def uses_tcp(self) -> bool:
        """Whether any process listens on a network."""
        return any(endpoint.startswith("tcp:") for endpoint in (self.environment, *self.endpoints))

    def save(self, path: Path) -> None:
        """Write the cluster file, beside config.yaml.

        Raises:
            StorageError: the disk is full or read-only.
        """
        agents = {
            agent: {"endpoint": endpoint, "neighbours": list(self.graph.neighbours(agent))}
            for agent, endpoint in enumerate(self.endpoints)
        }
        content = {
            "run_id": self.run_id,
            "config": self.config.name,
            "environment": self.environment,
            "agents": agents,
        }
        write_atomically(path, yaml.safe_dump(content, sort_keys=False).encode())

    @classmethod
    def load(cls, path: Path) -> Cluster:
        """Read a cluster file.

        Raises:
            ConfigError: it cannot be read or is not valid; the text names the key.
        """
        content = _read(path)
        agents = content["agents"]
        if not isinstance(agents, dict) or list(agents) != list(range(len(agents))) or not agents:
            raise ConfigError(f"{path}: agents must map the ids 0, 1, ... to endpoint and neighbours")
        for agent, entry in agents.items():
            if not isinstance(entry, dict) or set(entry) != {"endpoint", "neighbours"}:
                raise ConfigError(f"{path}: agent {agent} needs an endpoint and neighbours, and nothing else")
        endpoints = tuple(_endpoint(path, f"agent {agent}", entry["endpoint"]) for agent, entry in agents.items())
        return cls(
            run_id=_text(path, "run_id", content["run_id"]),
            config=path.parent / _text(path, "config", content["config"]),
            environment=_endpoint(path, "environment", content["environment"]),
            endpoints=endpoints,
            graph=_graph(path, [entry["neighbours"] for entry in agents.values()]),
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read cluster file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).replace("\n", " ")
        raise ConfigError(f"{path} is not valid YAML: {reason}") from None
    if not isinstance(content, dict) or set(content) != set(_KEYS):
        raise ConfigError(f"{path} must hold exactly the keys {', '.join(_KEYS)}")
    return content


def _graph(path: Path, neighbours: Sequence[Any]) -> CommunicationGraph:
    everyone = range(len(neighbours))
    for agent, others in enumerate(neighbours):
        if not isinstance(others, list) or any(type(other) is not int or other not in everyone for other in others):
            raise ConfigError(f"{path}: the neighbours of agent {agent} must be a list of agents' ids")
        for other in others:
            if not isinstance(neighbours[other], list) or agent not in neighbours[other]:
                raise ConfigError(f"{path}: agent {agent} names {other} as a neighbour, but not the other way round")
    links = ((agent, other) for agent, others in enumerate(neighbours) for other in others)
    try:
        return CommunicationGraph.from_links(len(neighbours), links, path.name)
    except TopologyError as error:
        raise ConfigError(f"{path}: {error}") from None


def _text(path: Path, name: str, value: Any) -> str:
    if type(value) is not str or not 0 < len(value) <= 255:
        raise ConfigError(f"{path}: {name} must be text of 1 to 255 characters")
    return value


def _endpoint(path: Path, name: str, value: Any) -> str:
    endpoint = _text(path, f"the endpoint of {name}", value)
    if not endpoint.startswith(("ipc://", "tcp://")):
        raise ConfigError(f"{path}: the endpoint of {name} must begin with ipc:// or tcp://, not {endpoint!r}")
    return endpoint
