"""`matrpo doctor`: can this machine run matrpo, and reach the others of a cluster?"""

from __future__ import annotations

import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import click
import zmq

from matrpo.envs.registry import families
from matrpo.envs.workers.cores import usable_cores
from matrpo.errors import ConfigError
from matrpo.film import check_film_name
from matrpo.launch.cluster.cluster_file import Cluster, check_host, host_of, port_of
from matrpo.launch.cluster.key_making import key_holders
from matrpo.launch.cluster.keys import key_path
from matrpo.launch.commands.options import PATH
from matrpo.launch.commands.versions import versions
from matrpo.launch.processes.process import EXIT_MISTAKE
from matrpo.launch.processes.supervisor import check_ports, local_ports
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import Config

_FILES = 4096
_AGENTS = 12
_PATIENCE = 2.0

Verdict = Literal["ok", "note", "bad"]


class Finding(NamedTuple):
    """One line of the report: `bad` must be repaired, a `note` matters to some runs only."""

    verdict: Verdict
    text: str


@click.command()
@click.option("--cluster", "file", type=PATH, metavar="FILE", help="Check this cluster too: keys, names, machines.")
def doctor(file: Path | None) -> int:
    """Check this machine, and with --cluster the keys that lie here and the way to the other machines."""
    findings = [*_here(), *(_cluster(file) if file else ())]
    for verdict, text in findings:
        print(f"{verdict:5}{text}", file=sys.stderr)
    return EXIT_MISTAKE if any(finding.verdict == "bad" for finding in findings) else 0


def _here() -> Iterator[Finding]:
    """Check this machine: versions, CURVE, open files, ports, cores, graphics cards, tasks, films, namespaces."""
    yield Finding("ok", ", ".join(f"{name} {version}" for name, version in versions().items()))
    curve = zmq.has("curve")
    yield Finding("ok" if curve else "bad", f"libzmq {zmq.zmq_version()} {'with' if curve else 'WITHOUT'} CURVE")
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = files == resource.RLIM_INFINITY or files >= _FILES
    advice = "" if enough else f"; raise the hard limit to {_FILES} at least: strangers' connections count against it"
    yield Finding("ok" if enough else "note", f"up to {files} open files{advice}")
    ports = local_ports(Config.port, _AGENTS)
    try:
        check_ports(ports)
        yield Finding("ok", f"ports {ports[0]} to {ports[-1]} of 127.0.0.1 are free")
    except ConfigError as error:
        yield Finding("note", str(error))
    yield _cores()
    yield _graphics_cards()
    yield from _tasks()
    yield _films()
    yield _namespaces()


def _cores() -> Finding:
    cores = usable_cores()
    threads = Config.torch_threads
    text = f"{cores} cores; an agent computes with {threads} thread{'' if threads == 1 else 's'} (torch_threads)"
    if cores < _AGENTS:
        return Finding("note", f"{text}, so that {_AGENTS} agents take turns")
    return Finding("ok", text)


def _graphics_cards() -> Finding:
    from matrpo.networks.device import cuda_devices

    if cards := cuda_devices():
        return Finding("ok", f"CUDA devices: {', '.join(cards)}")
    return Finding("ok", "no CUDA device: networks learn on the processor")


def _tasks() -> Iterator[Finding]:
    """Check which families of tasks can be run here, and what to install for the others."""
    for family in families().values():
        problem = family.needs.problem()
        yield Finding("note" if problem else "ok", f"tasks {family.pattern}: {problem or family.description}")


def _films() -> Finding:
    try:
        check_film_name(Path("film.mp4"))
        return Finding("ok", "matrpo eval --render makes .gif and .mp4")
    except ConfigError as error:
        return Finding("note", str(error))


def _namespaces() -> Finding:
    if shutil.which("ip") is None:
        return Finding("note", "no network namespaces: iproute2 is not installed (its test is skipped)")
    name = "matrpo-doctor"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return Finding("note", f"no network namespaces: {made.stderr.strip()} (their test is skipped)")
    subprocess.run(["ip", "netns", "del", name], check=False)
    return Finding("ok", "network namespaces can be made")


def _cluster(file: Path) -> Iterator[Finding]:
    try:
        cluster = Cluster.load(file)
        run = RunDirectory.open(file.parent)
    except ConfigError as error:
        yield Finding("bad", str(error))
        return
    if run.num_agents != len(cluster.agents):
        text = f"{run.path}/config.yaml has {run.num_agents} agents, {file} has {len(cluster.agents)}"
        yield Finding("bad", text)
    yield from _keys(cluster)
    if run.num_servers != len(cluster.servers):
        text = f"{run.path}/config.yaml has {run.num_servers} environment servers, {file} has {len(cluster.servers)}"
        yield Finding("bad", text)
    for process in cluster.processes:
        yield _reach(cluster, process)


def _keys(cluster: Cluster) -> Iterator[Finding]:
    if not cluster.uses_tcp:
        return
    if cluster.keys is None:
        yield Finding("bad", f"{cluster.file} has no keys: every process needs --insecure")
        return
    here = [one for one in key_holders(cluster) if key_path(cluster.file, one).exists()]
    if not here:
        folder = key_path(cluster.file, ProcessId.server()).parent
        yield Finding("bad", f"no secret key lies in {folder}: copy those of this machine")
    for one in here:
        try:
            cluster.security(one)
            yield Finding("ok", f"the key of {one.name} is here")
        except ConfigError as error:
            yield Finding("bad", str(error))


def _reach(cluster: Cluster, process: ProcessId) -> Finding:
    """Whether the machine of a process can be reached; the process need not run yet."""
    endpoint = cluster.endpoints[process]
    if not endpoint.startswith("tcp:"):
        return Finding("ok", f"{process.name} is on this machine")
    where = f"{process.name} at {endpoint}"
    try:
        check_host(cluster.file, process.name, endpoint)
        with socket.create_connection((host_of(endpoint), port_of(endpoint)), _PATIENCE):
            return Finding("ok", f"{where}: listens")
    except ConfigError as error:
        return Finding("bad", str(error))
    except ConnectionRefusedError:
        return Finding("ok", f"{where}: the machine answers, nobody listens now")
    except OSError as error:
        return Finding("bad", f"{where}: cannot be reached: {error.strerror or 'no answer'}")
