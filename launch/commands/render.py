"""`matrpo cluster render`: write a new run as Kubernetes manifests or as a Slurm batch script."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from matrpo.errors import ConfigError
from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.launch.commands.new_cluster import new_cluster, new_config, new_run_options, say
from matrpo.launch.commands.options import PATH, Given, SectionedCommand
from matrpo.launch.engines import kubernetes, slurm
from matrpo.runs.process_id import in_order_of_ports
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import RunConfig


@click.group()
def render() -> None:
    """Write a new run as what another engine places, starts and restarts."""


@render.command("kubernetes", cls=SectionedCommand)
@click.option("--image", required=True, metavar="NAME", help="An image with matrpo in it; see the Dockerfile.")
@click.option("--name", default="matrpo", show_default=True, metavar="NAME", help="The run's name in the namespace.")
@click.option("--cpu", default="1", show_default=True, metavar="QUANTITY", help="Cores that each process asks for.")
@click.option("--memory", default="1Gi", show_default=True, metavar="QUANTITY", help="Memory of each process.")
@click.option("--storage", default="1Gi", show_default=True, metavar="QUANTITY", help="Volume of each process.")
@click.option("--cluster", "again", type=PATH, metavar="FILE", help="Of a run that is there, after `keys rotate`, say.")
@new_run_options
def render_kubernetes(
    image: str, name: str, cpu: str, memory: str, storage: str, again: Path | None, out: Path | None, given: Given
) -> int:
    """Write a run's files, and Kubernetes' manifests into the folder `kubernetes` beside them."""
    pods = kubernetes.Pods(name, image, cpu, memory, storage)
    made = _new_pods(name, out, given) if again is None else _same_pods(again, name, out, given)
    folder = kubernetes.write_manifests(made, pods)
    say("look at the manifests, then start the run:")
    say(f"  kubectl apply -f {shlex.quote(str(folder))}")
    return 0


def _new_pods(name: str, out: Path | None, given: Given) -> Cluster:
    config = _without_files(_placeable(new_config("cluster render kubernetes", given)))
    return new_cluster(config, kubernetes.endpoints(name, config), out)


def _same_pods(file: Path, name: str, out: Path | None, given: Given) -> Cluster:
    if out is not None or given:
        raise ConfigError("--cluster takes the settings from the run directory: leave the others out")
    made = Cluster.load(file)
    config = RunDirectory.open(file.parent).config
    if made.endpoints != kubernetes.endpoints(name, config):
        raise ConfigError(f"--name {name}: {file} was rendered under another name")
    return made


@render.command("slurm", cls=SectionedCommand)
@click.option("--sbatch", "options", multiple=True, metavar="OPTION", help="Of sbatch, as --partition=long; repeat it.")
@click.option("--matrpo", "program", metavar="PROGRAM", help="matrpo on the nodes [this one].")
@new_run_options
def render_slurm(options: tuple[str, ...], program: str | None, out: Path | None, given: Given) -> int:
    """Write a run's files, and a script for sbatch beside them: one task for each process, on whatever hosts it gets.

    The run directory must be on a file system that all nodes share.
    """
    config = _placeable(new_config("cluster render slurm", given))
    slurm.check_options(options)
    processes = in_order_of_ports(config.agents, config.env_servers)
    endpoints = {process: f"tcp://localhost:{config.port + place}" for place, process in enumerate(processes)}
    made = new_cluster(config, endpoints, out)
    script = slurm.write_script(made, program or str(Path(sys.executable).with_name("matrpo")), options)
    say("look at the script, then start the run; the same command goes on with a run that has stopped:")
    say(f"  sbatch {shlex.quote(str(script))}")
    return 0


def _placeable(config: RunConfig) -> RunConfig:
    if config.insecure:
        raise ConfigError("--insecure: processes that others place talk with keys: leave it out")
    return config


def _without_files(config: RunConfig) -> RunConfig:
    file, _, _ = config.task.rpartition(":")
    if Path(file).is_file():
        raise ConfigError(f"--task {config.task}: pods do not have this file: put it into a package of the image")
    return config
