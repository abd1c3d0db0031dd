"""`matrpo agent` and `matrpo env-server`, one process of a run each, and `matrpo probe`, which looks at one."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import click

from matrpo.errors import ConfigError
from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.launch.engines.placement import agent_id
from matrpo.launch.processes.heartbeat import Beat, read_sign
from matrpo.launch.processes.process import EXIT_FAILED, StopRequested, name_of, run_alone, stop_at
from matrpo.runs.process_directory import ProcessDirectory
from matrpo.runs.run_directory import RunDirectory

_PATH = click.Path(path_type=Path)

_ID_HELP = "Which agent; auto: as the Slurm step or the pod of a StatefulSet says."
_MANAGED = click.option(
    "--managed",
    is_flag=True,
    help="Something starts again whatever ends: names of machines may be known later, and after the run wait for the "
    "signal to stop.",
)


@click.command()
@click.option("--cluster", "file", type=_PATH, required=True, metavar="FILE", help="The run's cluster.yaml.")
@click.option("--id", "which", required=True, metavar="N|auto", help=_ID_HELP)
@click.option("--insecure", is_flag=True, help="Talk over TCP without encryption and authentication.")
@click.option("--until-eof", is_flag=True, help="Stop when standard input ends.")
@_MANAGED
def agent(file: Path, which: str, insecure: bool, until_eof: bool, managed: bool) -> int:
    """Run one agent of a cluster in this process."""
    cluster = load_cluster(file, insecure)
    agent = _own_agent(cluster, which)
    cluster.security(agent)
    if not managed:
        cluster.check_hosts(agent)
    directory = RunDirectory.open(cluster.config.parent).agent(agent)
    from matrpo.launch.processes.agent_process import learn

    status = run_alone(f"matrpo agent {agent}", directory, lambda: learn(cluster, agent), until_eof)
    return _stay(directory) if managed and not status else status


@click.command()
@click.option("--cluster", "file", type=_PATH, required=True, metavar="FILE", help="The run's cluster.yaml.")
@click.option("--id", "server", type=int, default=0, show_default=True, metavar="K", help="Which, of several.")
@click.option("--insecure", is_flag=True, help="Talk over TCP without encryption and authentication.")
@click.option("--until-eof", is_flag=True, help="Stop when standard input ends.")
@_MANAGED
def env_server(file: Path, server: int, insecure: bool, until_eof: bool, managed: bool) -> int:
    """Run an environment server of a cluster in this process."""
    cluster = load_cluster(file, insecure)
    if not 0 <= server < len(cluster.servers):
        last = len(cluster.servers) - 1
        raise ConfigError(f"--id {server}: {file} has the environment servers 0 to {last}, not {server}")
    cluster.security(None)
    directory = RunDirectory.open(cluster.config.parent).server(server)
    from matrpo.launch.processes.env_server import serve, title

    status = run_alone(title(server), directory, lambda: serve(cluster, server=server), until_eof)
    return _stay(directory) if managed and not status else status


@click.command()
@click.option("--cluster", "file", type=_PATH, required=True, metavar="FILE", help="The run's cluster.yaml.")
@click.option("--id", "which", metavar="N|auto", help=f"{_ID_HELP} Without it: the environment server.")
@click.option("--within", type=click.FloatRange(min=1.0), default=120.0, show_default=True, help="Seconds.")
@click.option("--taking-part", is_flag=True, help="It must have begun an iteration.")
def probe(file: Path, which: str | None, within: float, taking_part: bool) -> int:
    """Whether a process on this machine goes on: exit status 0 if its last beat is recent, else 1.

    A process beats every second while it waits for others, too, and once between two pieces of work.
    """
    cluster = Cluster.load(file)
    agent = None if which is None else _own_agent(cluster, which)
    run = RunDirectory.open(cluster.config.parent)
    sign = read_sign(run.env if agent is None else run.agent(agent))
    print(f"{name_of(agent)}: iteration {sign.iteration}, {sign.age:.0f} s ago")
    return 0 if sign.age <= within and (sign.iteration or not taking_part) else EXIT_FAILED


def load_cluster(file: Path, insecure: bool) -> Cluster:
    """Read a cluster file for a process of it; `insecure`: the user typed --insecure.

    Raises:
        ConfigError: it is not valid or not of the run's settings, or has keys although the user wants to go without.
    """
    cluster = Cluster.load(file)
    if cluster.keys and insecure:
        raise ConfigError(f"{file} has keys, and all others use them: leave --insecure out")
    run = RunDirectory.open(file.parent)
    if len(cluster.servers) != run.num_servers:
        raise ConfigError(f"{file} has {len(cluster.servers)} environment servers, 'env_servers' is {run.num_servers}")
    return dataclasses.replace(cluster, insecure=insecure or run.config.insecure)


def _own_agent(cluster: Cluster, given: str) -> int:
    """The agent of a cluster that `--id` means.

    Raises:
        ConfigError: there is none.
    """
    agent = agent_id(given, os.environ)
    if not 0 <= agent < len(cluster.endpoints):
        raise ConfigError(f"--id {given}: {cluster.file} has the agents 0 to {len(cluster.endpoints) - 1}, not {agent}")
    return agent


def _stay(directory: ProcessDirectory) -> int:
    """Wait, after the end of a run, for the signal to stop; the exit status."""
    beat = Beat(directory)
    try:
        stop_at(signal.SIGTERM, signal.SIGINT)
        while True:
            beat(read_sign(directory).iteration)
            time.sleep(1.0)
    except StopRequested:
        return 0
