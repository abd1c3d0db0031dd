"""`matrpo cluster init` and `matrpo keys rotate`: the files of a run whose processes are on several machines."""

from __future__ import annotations

import dataclasses
import secrets
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from matrpo import algorithm_table
from matrpo.config import Config, ConfigError
from matrpo.graph_settings import build_graph
from matrpo.launch.cluster import FILE_NAME, Cluster, host_of, is_host, port_of
from matrpo.launch.key_making import equip, everyone, rotate
from matrpo.launch.keys import key_path
from matrpo.launch.options import SectionedCommand, resolve_layers, setting_layers, setting_options
from matrpo.launch.process import name_of
from matrpo.launch.supervisor import local_ports
from matrpo.launch.versions import versions
from matrpo.run_directory import RunDirectory
from matrpo.topology import CommunicationGraph

_PATH = click.Path(path_type=Path)
_LAST_PORT = 65535


@click.group()
def cluster() -> None:
    """Prepare runs whose processes are on several machines."""


@click.group()
def keys() -> None:
    """Exchange the keys of a cluster."""


@cluster.command(cls=SectionedCommand)
@click.option("--host", "hosts", multiple=True, required=True, metavar="HOST", help="A machine for agents; repeat it.")
@click.option("--env-host", required=True, metavar="HOST", help="The environment server's machine.")
@click.option("--out", type=_PATH, metavar="DIR", help="The run directory (default: a new one in runs/).")
@click.option("--config", "file", type=_PATH, metavar="FILE", help="YAML file of settings.")
@click.option("--preset", metavar="NAME", help="Settings that ship with matrpo, such as `paper`.")
@click.option("-o", "overrides", multiple=True, metavar="KEY=VALUE", help="Any setting; may be repeated.")
@setting_options
def init(
    hosts: tuple[str, ...],
    env_host: str,
    out: Path | None,
    file: Path | None,
    preset: str | None,
    overrides: tuple[str, ...],
    **settings: Any,
) -> int:
    """Write config.yaml, cluster.yaml and the keys of a new run, and say what to copy where.

    Agents are spread over the hosts in blocks of consecutive ids. The environment server listens at --port, agent i at
    the port i + 1 above that.
    """
    layers = [("cluster init", {"transport": "tcp"}), *setting_layers(settings, file, preset, overrides)]
    config = resolve_layers(layers)
    if config.transport != "tcp":
        raise ConfigError(f"--transport {config.transport}: machines talk over tcp")
    if algorithm_table.is_central(config.algo):
        raise ConfigError(f"cluster init: {config.algo} trains in one process: start it with matrpo launch")
    graph = build_graph(config)
    endpoints = _endpoints(config, hosts, env_host)
    run = RunDirectory.create(out, config, versions())
    made = _make(run, graph, endpoints)
    _say(f"{run.path} holds config.yaml, cluster.yaml{'' if made.insecure else ' and keys/'}")
    if made.insecure:
        _say("INSECURE: no keys were made; whoever reaches the ports can join in")
    _explain(made)
    return 0


@keys.command("rotate")
@click.option("--cluster", "file", type=_PATH, required=True, metavar="FILE", help="The run's cluster.yaml.")
@click.option("--id", "agent", type=int, metavar="N", help="Only agent N's.")
@click.option("--env", is_flag=True, help="Only the environment server's.")
def rotate_keys(file: Path, agent: int | None, env: bool) -> int:
    """Make new keys, for all processes or one, and say what to copy where."""
    old = Cluster.load(file)
    if old.keys is None:
        raise ConfigError(f"{file} has no keys to exchange")
    if agent is not None and env:
        raise ConfigError("--id and --env: name one, or neither for all")
    if agent is not None and not 0 <= agent < len(old.endpoints):
        raise ConfigError(f"--id {agent}: {file} has the agents 0 to {len(old.endpoints) - 1}")
    changed = [agent] if agent is not None else [None] if env else everyone(old)
    rotate(old, changed)
    _say(f"new keys for {', '.join(name_of(one) for one in changed)}; copy to every machine:")
    for host, processes in _machines(old).items():
        files = [FILE_NAME, *(_key_name(one) for one in processes if one in changed)]
        _say(f"  {_copy(old, host, files)}")
    affected = everyone(old) if None in changed else [None, agent, *old.graph.neighbours(agent or 0)]
    if len(affected) > len(old.endpoints):
        _say("then restart all processes")
    else:
        _say(f"then restart {', '.join(name_of(one) for one in affected)}")
    return 0


def _endpoints(config: Config, hosts: Sequence[str], env_host: str) -> list[str]:
    """The environment server's endpoint, then every agent's."""
    assert config.agents is not None
    ports = local_ports(config.port, config.agents)
    if ports[-1] > _LAST_PORT:
        raise ConfigError(f"ports {ports[0]} to {ports[-1]} are needed, but {_LAST_PORT} is the last: lower --port")
    for host in (*hosts, env_host):
        if not is_host(host):
            raise ConfigError(f"{host!r} is not the name of a host or an IPv4 address")
    if repeated := [host for host in hosts if hosts.count(host) > 1]:
        raise ConfigError(f"--host {repeated[0]} is there twice")
    if len(hosts) > config.agents:
        raise ConfigError(f"{len(hosts)} hosts are too many for {config.agents} agents")
    homes = [hosts[agent * len(hosts) // config.agents] for agent in range(config.agents)]
    return [f"tcp://{host}:{port}" for host, port in zip([env_host, *homes], ports, strict=True)]


def _make(run: RunDirectory, graph: CommunicationGraph, endpoints: Sequence[str]) -> Cluster:
    server, *agents = endpoints
    made = Cluster(secrets.token_hex(8), run.path / "config.yaml", server, tuple(agents), graph)
    made = dataclasses.replace(made, insecure=True) if run.config.insecure else equip(made)
    made.save(made.file)
    return made


def _explain(made: Cluster) -> None:
    """Say what to copy, which ports to open and how to start."""
    machines = _machines(made)
    _say("copy to each machine what its processes need:")
    for host, processes in machines.items():
        secret = [] if made.keys is None else [_key_name(one) for one in processes]
        _say(f"  {_copy(made, host, ['config.yaml', FILE_NAME, *secret])}")
    _say("let the machines reach each other at these TCP ports:")
    for host, processes in machines.items():
        listening = [one for one in processes if one is None or any(n < one for n in made.graph.neighbours(one))]
        ports = [str(port_of(made.environment if one is None else made.endpoints[one])) for one in listening]
        _say(f"  {host}: {', '.join(ports) or 'none'}")
    flag = " --insecure" if made.insecure else ""
    _say("start all of them from here:")
    _say(f"  matrpo launch --cluster {shlex.quote(str(made.file))} --ssh{flag}")
    _say("or each on its machine, in any order:")
    for host, processes in machines.items():
        for one in processes:
            what = "env-server" if one is None else f"agent --id {one}"
            _say(f"  {host}: matrpo {what} --cluster {shlex.quote(str(made.file.absolute()))}{flag}")


def _machines(of: Cluster) -> dict[str, list[int | None]]:
    """The processes of each host."""
    machines: dict[str, list[int | None]] = {}
    for one in everyone(of):
        endpoint = of.environment if one is None else of.endpoints[one]
        machines.setdefault(host_of(endpoint), []).append(one)
    return machines


def _key_name(one: int | None) -> str:
    path = key_path(Path(FILE_NAME), one)
    return str(path)


def _copy(of: Cluster, host: str, files: Sequence[str]) -> str:
    """A command that copies files of the run directory to the same place on another machine."""
    here = shlex.quote(str(of.file.parent.absolute()))
    remote = f"umask 077 && mkdir -p {here} && tar -C {here} -xpf -"
    return f"tar -C {here} -cf - {' '.join(files)} | ssh {host} {shlex.quote(remote)}"


def _say(line: str) -> None:
    print(line, file=sys.stderr)
