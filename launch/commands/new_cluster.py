"""Creates the files of a run on several machines: config.yaml, cluster.yaml, and a secret key for each process."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from matrpo.errors import ConfigError
from matrpo.launch.cluster.cluster_file import Cluster, new_run_id
from matrpo.launch.cluster.key_making import equip
from matrpo.launch.commands.options import PATH, Given, resolve_layers, setting_layers, setting_options
from matrpo.launch.commands.versions import versions
from matrpo.runs.graph_settings import build_graph
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings import algorithm_names
from matrpo.settings.config import RunConfig

_OUT = click.option("--out", type=PATH, metavar="DIR", help="The run directory (default: a new one in runs/).")


def new_run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that creates a run: the run directory, every setting, and files of settings."""
    return _OUT(setting_options(command))


def new_config(command: str, given: Given) -> RunConfig:
    """The settings of a run on several machines.

    Args:
        command: what the user typed.
        given: what else.

    Raises:
        ConfigError: they are not valid, or not for several machines.
    """
    layers = [(command, {"transport": "tcp"}), *setting_layers(given)]
    config = resolve_layers(layers)
    if config.transport != "tcp":
        raise ConfigError(f"--transport {config.transport}: machines talk over tcp")
    if algorithm_names.is_central(config.algo):
        raise ConfigError(f"{command}: {config.algo} trains in one process: start it with matrpo launch")
    build_graph(config)
    return config


def new_cluster(config: RunConfig, endpoints: Mapping[ProcessId, str], out: Path | None) -> Cluster:
    """Write the files of a run on several machines, and tell the user where.

    Args:
        config: the settings.
        endpoints: of every process.
        out: the run directory; None makes one in `runs/`.

    Raises:
        ConfigError: there is a run already.
        StorageError: a file cannot be written.
    """
    run = RunDirectory.create(out, config, versions())
    made = Cluster(new_run_id(run.identity), run.path / "config.yaml", endpoints, build_graph(config))
    made = dataclasses.replace(made, insecure=True) if config.insecure else equip(made)
    made.save(made.file)
    say(f"{run.path} holds config.yaml, cluster.yaml{'' if made.insecure else ' and keys/'}")
    if made.insecure:
        say("INSECURE: no keys were made; whoever reaches the ports can join in")
    if config.tracker != "none":
        say(f"for {config.tracker}, call `matrpo track {run.path} --follow` on each machine")
    return made


def say(line: str) -> None:
    """Tell the user."""
    print(line, file=sys.stderr)
