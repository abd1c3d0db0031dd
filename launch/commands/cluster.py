"""`matrpo cluster init` and `matrpo keys rotate`: the files of a run whose processes are on several machines."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from matrpo.errors import ConfigError
from matrpo.launch.cluster.cluster_file import FILE_NAME, Cluster, host_of, is_host, port_of
from matrpo.launch.cluster.key_making import key_holders, rotate
from matrpo.launch.cluster.keys import key_path
from matrpo.launch.commands.new_cluster import new_cluster, new_config, new_run_options, say
from matrpo.launch.commands.options import PATH, Given, SectionedCommand
from matrpo.launch.commands.render import render
from matrpo.launch.processes.supervisor import local_ports
from matrpo.runs.process_id import ProcessId, in_order_of_ports
from matrpo.settings.config import RunConfig

_LAST_PORT = 65535


@click.group()
def cluster() -> None:
    """Prepare runs whose processes are on several machines."""


cluster.add_command(render)


@click.group()
def keys() -> None:
    """Exchange the keys of a cluster."""


@cluster.command(cls=SectionedCommand)
@click.option("--host", "hosts", multiple=True, required=True, metavar="HOST", help="A machine for agents; repeat it.")
@click.option(
    "--env-host",
    "env_hosts",
    multiple=True,
    required=True,
    metavar="HOST",
    help="The environment server's machine; repeat it for several, as env_servers says.",
)
@new_run_options
def init(hosts: tuple[str, ...], env_hosts: tuple[str, ...], out: Path | None, given: Given) -> int:
    """Write config.yaml, cluster.yaml and the keys of a new run, and say what to copy where.

    Agents are spread over the hosts in blocks of consecutive ids, and so are environment servers over theirs. The first
    server listens at --port, agent i at the port i + 1 above that, further servers at the ports after those.
    """
    config = new_config("cluster init", given)
    made = new_cluster(config, _endpoints(config, hosts, env_hosts), out)
    _explain(made)
    return 0


@cluster.command()
@click.option("--cluster", "file", type=PATH, required=True, metavar="FILE", help="The run's cluster.yaml.")
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
def move(file: Path, hosts: tuple[str, ...]) -> int:
    """Move the processes of a run that is not running to other HOSTs: the environment server's, then every agent's.

    Those of further environment servers come last, as their ports do. Keys and ports stay as they are.
    """
    old = Cluster.load(file)
    moved = in_order_of_ports(len(old.agents), len(old.servers))
    if len(hosts) != len(moved):
        servers = "the environment server" if len(old.servers) == 1 else f"{len(old.servers)} environment servers"
        raise ConfigError(f"{len(hosts)} hosts: {file} has {len(moved)} processes, {servers} and agents")
    if not old.uses_tcp:
        raise ConfigError(f"{file} is of a run on one machine; `matrpo cluster init` makes one for several")
    _check_hosts(hosts)
    homes = zip(moved, hosts, strict=True)
    endpoints = {process: f"tcp://{host}:{port_of(old.endpoints[process])}" for process, host in homes}
    dataclasses.replace(old, endpoints=endpoints).save(file)
    return 0


@keys.command("rotate")
@click.option("--cluster", "file", type=PATH, required=True, metavar="FILE", help="The run's cluster.yaml.")
@click.option("--id", "agent", type=int, metavar="N", help="Only agent N's.")
@click.option("--env", is_flag=True, help="Only the environment server's.")
def rotate_keys(file: Path, agent: int | None, env: bool) -> int:
    """Make new keys, for all processes or one, and say what to copy where."""
    old = Cluster.load(file)
    if old.keys is None:
        raise ConfigError(f"{file} has no keys to exchange")
    if agent is not None and env:
        raise ConfigError("--id and --env: name one, or neither for all")
    if agent is not None and not 0 <= agent < len(old.agents):
        raise ConfigError(f"--id {agent}: {file} has the agents 0 to {len(old.agents) - 1}")
    chosen = [ProcessId.agent(agent)] if agent is not None else [ProcessId.server()] if env else key_holders(old)
    rotate(old, chosen)
    changed = {one.key for one in chosen}
    say(f"new keys for {', '.join(one.name for one in old.processes if one.key in changed)}; copy to every machine:")
    for host, processes in _machines(old).items():
        say(f"  {_copy(old, host, [FILE_NAME, *_key_names(one for one in processes if one.key in changed)])}")
    servers = [one for one in old.processes if one.is_server]
    neighbours = [ProcessId.agent(other) for other in old.graph.neighbours(agent or 0)]
    affected = [*servers, *chosen, *neighbours] if agent is not None else old.processes
    if len(affected) == len(old.processes):
        say("then restart all processes")
    else:
        say(f"then restart {', '.join(one.name for one in affected)}")
    return 0


def _endpoints(config: RunConfig, hosts: Sequence[str], env_hosts: Sequence[str]) -> dict[ProcessId, str]:
    """The endpoint of every process."""
    ports = local_ports(config.port, config.agents, config.env_servers)
    if ports[-1] > _LAST_PORT:
        raise ConfigError(f"ports {ports[0]} to {ports[-1]} are needed, but {_LAST_PORT} is the last: lower --port")
    _check_hosts((*hosts, *env_hosts))
    if repeated := [host for host in hosts if hosts.count(host) > 1]:
        raise ConfigError(f"--host {repeated[0]} is there twice")
    if len(hosts) > config.agents:
        raise ConfigError(f"{len(hosts)} hosts are too many for {config.agents} agents")
    if len(env_hosts) > config.env_servers:
        raise ConfigError(f"{len(env_hosts)} environment hosts are too many: 'env_servers' is {config.env_servers}")
    server, *more = _spread(env_hosts, config.env_servers)
    homes = zip([server, *_spread(hosts, config.agents), *more], ports, strict=True)
    processes = in_order_of_ports(config.agents, config.env_servers)
    return dict(zip(processes, (f"tcp://{host}:{port}" for host, port in homes), strict=True))


def _spread(hosts: Sequence[str], processes: int) -> list[str]:
    """The host of each of `processes` processes: blocks of consecutive ones share a host."""
    return [hosts[number * len(hosts) // processes] for number in range(processes)]


def _check_hosts(hosts: Sequence[str]) -> None:
    for host in hosts:
        if not is_host(host):
            raise ConfigError(f"{host!r} is not the name of a host or an IPv4 address")


def _explain(made: Cluster) -> None:
    """Say what to copy, which ports to open and how to start."""
    machines = _machines(made)
    say("copy to each machine what its processes need:")
    for host, processes in machines.items():
        secret = [] if made.keys is None else _key_names(processes)
        say(f"  {_copy(made, host, ['config.yaml', FILE_NAME, *secret])}")
    say("let the machines reach each other at these TCP ports:")
    for host, processes in machines.items():
        ports = [str(port_of(made.endpoints[one])) for one in processes if made.dialled_by(one)]
        say(f"  {host}: {', '.join(ports) or 'none'}")
    flag = " --insecure" if made.insecure else ""
    say("start all of them from here:")
    say(f"  matrpo launch --cluster {shlex.quote(str(made.file))} --ssh{flag}")
    say("or each on its machine, in any order:")
    for host, processes in machines.items():
        for one in processes:
            say(f"  {host}: matrpo {' '.join(one.arguments)} --cluster {shlex.quote(str(made.file.absolute()))}{flag}")


def _machines(of: Cluster) -> dict[str, list[ProcessId]]:
    """The processes of each host."""
    machines: dict[str, list[ProcessId]] = {}
    for one in of.processes:
        machines.setdefault(host_of(of.endpoints[one]), []).append(one)
    return machines


def _key_names(processes: Iterable[ProcessId]) -> list[str]:
    """The key files of some processes, each once."""
    return list(dict.fromkeys(str(key_path(Path(FILE_NAME), one)) for one in processes))


def _copy(of: Cluster, host: str, files: Sequence[str]) -> str:
    """A command that copies files of the run directory to the same place on another machine."""
    here = shlex.quote(str(of.file.parent.absolute()))
    remote = f"umask 077 && mkdir -p {here} && tar -C {here} -xpf -"
    return f"tar -C {here} -cf - {' '.join(files)} | ssh {host} {shlex.quote(remote)}"
