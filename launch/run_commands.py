"""`matrpo launch`, and `matrpo agent` and `matrpo env-server`, which start one process of a run each."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import signal
import sys
from pathlib import Path
from typing import Any

import click
from setproctitle import setproctitle

from matrpo.config import Config, ConfigError, to_dict
from matrpo.launch.cluster import Cluster
from matrpo.launch.options import (
    Layer,
    SectionedCommand,
    resolve_layers,
    setting_layers,
    setting_options,
)
from matrpo.launch.process import EXIT_INTERRUPTED, StopRequested, ignore_stops, run_alone, stop_at
from matrpo.run_directory import RunDirectory
from matrpo.topology import CommunicationGraph, TopologyError, make_graph

_CHANGEABLE = {
    "steps",
    "link_deadline",
    "link_resend",
    "transport",
    "port",
    "insecure",
    "torch_threads",
    "checkpoint_every",
    "checkpoints_kept",
    "tensorboard",
}
"""Settings that may differ when a run is resumed."""

_VERSIONED = ("matrpo", "torch", "numpy", "pyzmq", "msgpack", "safetensors", "pettingzoo", "mpe2")
_PATH = click.Path(path_type=Path)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run whose settings have all been checked, and that exists on disk."""

    run: RunDirectory
    graph: CommunicationGraph
    start: int


@click.command(cls=SectionedCommand)
@click.option("--config", "file", type=_PATH, metavar="FILE", help="YAML file of settings.")
@click.option("--preset", metavar="NAME", help="Settings that ship with matrpo, such as `paper`.")
@click.option("-o", "overrides", multiple=True, metavar="KEY=VALUE", help="Any setting; may be repeated.")
@click.option("--run", "path", type=_PATH, metavar="DIR", help="The run directory (default: a new one in runs/).")
@click.option("--resume", is_flag=True, help="Continue the run in --run from its latest checkpoint.")
@click.option("--in-process", is_flag=True, help="Run all agents in this one process, for debugging.")
@setting_options
def launch(
    file: Path | None,
    preset: str | None,
    overrides: tuple[str, ...],
    path: Path | None,
    resume: bool,
    in_process: bool,
    **settings: Any,
) -> int:
    """Train: one process for each agent, one for the environment they share.

    Without any option: 12 agents on a ring learn cooperative navigation. Settings come from the defaults,
    --preset, --config, and the options below, the later ones winning.
    """
    layers = setting_layers(settings, file, preset, overrides)
    if not resume:
        config = resolve_layers(layers)
        graph = _checked(config, in_process)
        run = RunDirectory.create(path, config, _versions())
        with run.lock():
            return _train(Prepared(run, graph, 0), in_process)
    if path is None:
        raise ConfigError("--resume continues the run in --run DIR: name it")
    run = RunDirectory.open(path)
    with run.lock():
        return _train(_continued(run, layers, in_process), in_process)


@click.command()
@click.option("--cluster", "file", type=_PATH, required=True, metavar="FILE", help="The run's cluster.yaml.")
@click.option("--id", "agent", type=int, required=True, metavar="N", help="Which agent to be.")
@click.option("--insecure", is_flag=True, help="Talk over TCP without encryption and authentication.")
def agent(file: Path, agent: int, insecure: bool) -> int:
    """Run one agent of a cluster in this process."""
    cluster = _load_cluster(file, insecure)
    if not 0 <= agent < len(cluster.endpoints):
        raise ConfigError(f"--id {agent}: {file} has the agents 0 to {len(cluster.endpoints) - 1}")
    run = RunDirectory.open(cluster.config.parent)
    from matrpo.launch.agent_process import learn

    return run_alone(f"matrpo agent {agent}", run.agent(agent), lambda: learn(cluster, agent, 0))


@click.command()
@click.option("--cluster", "file", type=_PATH, required=True, metavar="FILE", help="The run's cluster.yaml.")
@click.option("--insecure", is_flag=True, help="Talk over TCP without encryption and authentication.")
def env_server(file: Path, insecure: bool) -> int:
    """Run the environment server of a cluster in this process."""
    cluster = _load_cluster(file, insecure)
    run = RunDirectory.open(cluster.config.parent)
    from matrpo.launch.env_server import TITLE, serve

    return run_alone(TITLE, run.env, lambda: serve(cluster, 0))


def _checked(config: Config, in_process: bool) -> CommunicationGraph:
    """Check whatever can be wrong with the settings together, before anything is made; the graph that they name."""
    from matrpo.launch.supervisor import check_ports, local_ports

    assert config.agents is not None
    try:
        graph = make_graph(config.topology, config.agents, config.seed)
    except TopologyError as error:
        raise ConfigError(f"bad value for 'topology': {error}") from None
    if config.transport == "tcp" and not in_process:
        _require_insecure(config.insecure, "transport tcp")
        check_ports(local_ports(config.port, config.agents))
    return graph


def _continued(run: RunDirectory, layers: list[Layer], in_process: bool) -> Prepared:
    """A run as it was when all its processes last had a checkpoint of the same iteration."""
    stored = to_dict(run.config)
    config = resolve_layers([("the run", stored), *layers])
    changed = {key: value for key, value in to_dict(config).items() if value != stored[key]}
    for key, value in changed.items():
        if key not in _CHANGEABLE:
            raise ConfigError(f"--resume cannot change {key!r}: {run.path} has {stored[key]!r}, not {value!r}")
    graph = _checked(config, in_process)
    start = run.latest_common_iteration()
    if start:
        from matrpo.envs.registry import task_spec

        run.check_checkpoints(start, task_spec(config.task, config.agents))
    run = RunDirectory(run.path, config)
    if changed:
        run.store_config(_versions())
    run.rewind(start)
    return Prepared(run, graph, start)


def _train(prepared: Prepared, in_process: bool) -> int:
    """Train to the end; the exit status."""
    from matrpo.launch.screen import make_screen

    setproctitle(" ".join(["matrpo", *sys.argv[1:]]))
    run, start = prepared.run, prepared.start
    screen = make_screen(run)
    if start >= run.config.iterations:
        screen.say(f"{run.path} is complete: it has {run.config.iterations} iterations; raise --steps to go on")
        return 0
    screen.say(f"{'continuing after iteration ' + str(start) if start else 'new run'} in {run.path}")
    with screen:
        if in_process:
            status = _train_in_process(run, start, screen)
        else:
            from matrpo.launch.supervisor import Supervisor

            status = Supervisor(run, prepared.graph, start, screen.say).run(screen.tick)
    if status == EXIT_INTERRUPTED:
        screen.say(f"stopped; go on with: matrpo launch --run {run.path} --resume")
    elif status == 0:
        screen.say(f"finished; evaluate with: matrpo eval {run.path}")
    return status


def _train_in_process(run: RunDirectory, start: int, screen: Any) -> int:
    from matrpo.training import InProcessTraining

    training = InProcessTraining(run, start)
    try:
        stop_at(signal.SIGINT, signal.SIGTERM)
        training.run(lambda: False, lambda _iteration: screen.tick())
    except StopRequested:
        ignore_stops()
        training.save()
        return EXIT_INTERRUPTED
    return 0


def _load_cluster(file: Path, insecure: bool) -> Cluster:
    cluster = Cluster.load(file)
    if cluster.uses_tcp:
        _require_insecure(insecure or RunDirectory.open(cluster.config.parent).config.insecure, str(file))
    return cluster


def _require_insecure(insecure: bool, what: str) -> None:
    if not insecure:
        raise ConfigError(
            f"{what}: anyone who reaches these TCP ports could join in, and keys are not available yet; "
            "add --insecure to go on without"
        )


def _versions() -> dict[str, str]:
    """The versions of what a run depends on."""
    found = {"python": platform.python_version()}
    for package in _VERSIONED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
