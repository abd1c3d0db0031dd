"""`matrpo agent` and `matrpo env-server`, one process of a run each, and `matrpo probe`, which checks its heartbeat."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import click

from matrpo.errors import ConfigError
from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.launch.commands.options import PATH
from matrpo.launch.engines.placement import own_number
from matrpo.launch.processes.heartbeat import Heartbeat, read_heartbeat
from matrpo.launch.processes.process import EXIT_FAILED, StopRequested, run_alone, stop_at
from matrpo.runs.process_directory import ProcessDirectory
from matrpo.runs.process_id import ProcessId, Role
from matrpo.runs.run_directory import RunDirectory

_AUTO_HELP = "auto: as the Slurm step or the pod of a StatefulSet says."
_ID_HELP = f"Which agent; {_AUTO_HELP}"
_MANAGED = click.option(
    "--managed",
    is_flag=True,
    help="Something starts again whatever ends: names of machines may be known later, and after the run wait for the "
    "signal to stop.",
)


@click.command()
@click.option("--cluster", "file", type=PATH, required=True, metavar="FILE", help="The run's cluster.yaml.")
@click.option("--id", "which", required=True, metavar="N|auto", help=_ID_HELP)
@click.option("--insecure", is_flag=True, help="Talk over TCP without encryption and authentication.")
@click.option("--until-eof", is_flag=True, help="Stop when standard input ends.")
@_MANAGED
def agent(file: Path, which: str, insecure: bool, until_eof: bool, managed: bool) -> int:
    """Run one agent of a cluster in this process."""
    cluster = load_cluster(file, insecure)
    process = _own(cluster, Role.AGENT, which)
    cluster.security(process)
    if not managed:
        cluster.check_hosts(process)
    from matrpo.launch.processes.agent_process import learn

    return _run(cluster, process, lambda: learn(cluster, process.number), until_eof, managed)


@click.command()
@click.option("--cluster", "file", type=PATH, required=True, metavar="FILE", help="The run's cluster.yaml.")
@click.option(
    "--id", "which", default="0", show_default=True, metavar="K|auto", help=f"Which, of several; {_AUTO_HELP}"
)
@click.option("--insecure", is_flag=True, help="Talk over TCP without encryption and authentication.")
@click.option("--until-eof", is_flag=True, help="Stop when standard input ends.")
@_MANAGED
def env_server(file: Path, which: str, insecure: bool, until_eof: bool, managed: bool) -> int:
    """Run an environment server of a cluster in this process."""
    cluster = load_cluster(file, insecure)
    process = _own(cluster, Role.SERVER, which)
    cluster.security(process)
    from matrpo.launch.processes.env_server import serve

    return _run(cluster, process, lambda: serve(cluster, server=process.number), until_eof, managed)


@click.command()
@click.option("--cluster", "file", type=PATH, required=True, metavar="FILE", help="The run's cluster.yaml.")
@click.option("--id", "which", metavar="N|auto", help=f"{_ID_HELP} Without it: the environment server.")
@click.option("--env", is_flag=True, help="It is an environment server; --id says which, of several.")
@click.option("--within", type=click.FloatRange(min=1.0), default=120.0, show_default=True, help="Seconds.")
@click.option("--taking-part", is_flag=True, help="It must have begun an iteration.")
def probe(file: Path, which: str | None, env: bool, within: float, taking_part: bool) -> int:
    """Whether a process on this machine goes on: exit status 0 if its last beat is recent, else 1.

    A process beats every second while it waits for others, too, and once between two pieces of work.
    """
    cluster = Cluster.load(file)
    process = _own(cluster, Role.SERVER if env or which is None else Role.AGENT, which or "0")
    last = read_heartbeat(RunDirectory.open(cluster.config.parent).directory(process))
    print(f"{process.name}: iteration {last.iteration}, {last.age:.0f} s ago")
    return 0 if last.age <= within and (last.iteration or not taking_part) else EXIT_FAILED


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


def _own(cluster: Cluster, role: Role, given: str) -> ProcessId:
    """The process of a cluster, an agent or an environment server, that `--id` means.

    Raises:
        ConfigError: there is none.
    """
    what = "environment server" if role is Role.SERVER else "agent"
    process = ProcessId(role, own_number(given, os.environ, what))
    if process not in cluster.endpoints:
        last = max(other.number for other in cluster.endpoints if other.role is role)
        raise ConfigError(f"--id {given}: {cluster.file} has the {what}s 0 to {last}, not {process.number}")
    return process


def _run(cluster: Cluster, process: ProcessId, work: Callable[[], None], until_eof: bool, managed: bool) -> int:
    """Run `work` as a process of the cluster in this process; the exit status."""
    run = RunDirectory.open(cluster.config.parent, cluster.identity)
    directory = run.directory(process)
    directory.read_metrics()
    if (done := run.newest_checkpoint(process)) > run.config.iterations:
        raise ConfigError(
            f"bad value {run.config.steps} for 'steps' in {cluster.config}: {process.name} has a checkpoint of "
            f"iteration {done}, expected at least {done * run.config.samples}"
        )
    status = run_alone(f"matrpo {process.name}", directory, work, until_eof)
    return _stay(directory) if managed and not status else status


def _stay(directory: ProcessDirectory) -> int:
    """Wait, after the end of a run, for the signal to stop; the exit status."""
    heartbeat = Heartbeat(directory)
    try:
        stop_at(signal.SIGTERM, signal.SIGINT)
        while True:
            heartbeat(read_heartbeat(directory).iteration)
            time.sleep(1.0)
    except StopRequested:
        return 0
