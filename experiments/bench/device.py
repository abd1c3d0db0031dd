"""Seconds of an iteration on a graphics card beside the processor, phase by phase, all agents in one process.

A phase on the card ends with a number that the processor waits for, so that its seconds are those of its own work. The
processor's half is of one thread, as an agent's process has; acting and environments, the rollout, are its in both.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from matrpo.experiments.bench.report import Report, Row, Say
from matrpo.networks.device import cuda_devices
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings import presets
from matrpo.settings.config import Config, resolve
from matrpo.training import make_training

_WARM_UP = 3
"""Activations of an iteration before, which is not measured: kernels are loaded and memory is taken in it."""

_TINY = {"num_envs": 4, "rollout_length": 10, "hidden_sizes": [8], "admm_iterations": 6}


@dataclass(frozen=True)
class Setup:
    """What is trained.

    Attributes:
        name: in the tables.
        given: its settings.
        phases: the metrics whose seconds make an iteration, summed over the processes.
        repeats: how many iterations are measured for one that is asked for; Table III's take minutes.
    """

    name: str
    given: Mapping[str, Any]
    phases: tuple[str, ...]
    repeats: int


_OF_AGENTS = ("rollout", "prepare", "consensus", "finish")
_CENTRAL = ("rollout", "update")


def setups() -> list[Setup]:
    """Table III of Li & He with three agents, the twelve of a run without any option, and MAPPO as it is tuned."""
    of_table = {"agents": 3, **presets.load("paper", "navigation", 3)}
    tuned = {"algo": "mappo", "task": "mpe2/simple_spread_v3", "agents": 3}
    return [
        Setup("Table III, 3 agents", of_table, _OF_AGENTS, repeats=1),
        Setup("the default, 12 agents", {"agents": 12}, _OF_AGENTS, repeats=2),
        Setup("MAPPO, 3 agents", tuned, _CENTRAL, repeats=10),
    ]


def run(iterations: int, quick: bool, say: Say) -> Report:
    """Train with each setup on the processor, and on a graphics card if there is one.

    Args:
        iterations: those of Table III that are measured on a device; of the others more are.
        quick: tiny sizes.
        say: told about the progress.
    """
    cards = cuda_devices()
    if not cards:
        say(f"torch {torch.__version__} sees no CUDA device: the processor alone is measured")
    names = {"cpu": "processor", **({"cuda": cards[0]} if cards else {})}
    tables: dict[str, list[Row]] = {}
    for setup in setups():
        given = {**setup.given, **(_TINY if quick else {})}
        config = resolve(("bench", {**given, "tensorboard": False}))
        rows: list[Row] = []
        for device, name in names.items():
            say(f"{setup.name}: iterations on the {'processor' if device == 'cpu' else 'graphics card'}")
            moved = dataclasses.replace(config, device=device)
            seconds = measure(moved, setup.phases, iterations * (1 if quick else setup.repeats))
            whole = sum(seconds.values())
            first = rows[0]["iteration"] if rows else whole
            assert isinstance(first, float)
            rows.append({"device": name, **seconds, "iteration": whole, "times_as_fast": first / whole})
        tables[f"{setup.name}: median seconds of an iteration"] = rows
    done = {setup.name: {**setup.given, "iterations": iterations * setup.repeats} for setup in setups()}
    return Report("device", {"setups": done}, tables)


def measure(config: Config, phases: tuple[str, ...], iterations: int) -> dict[str, float]:
    """The median seconds of each phase over the iterations of a run, all agents together."""
    _train(dataclasses.replace(config, admm_iterations=_WARM_UP), 1)
    lines = _train(config, iterations)
    return {
        phase: statistics.median(sum(line.get(f"seconds_{phase}", 0.0) for line in together) for together in lines)
        for phase in phases
    }


def _train(config: Config, iterations: int) -> list[tuple[Mapping[str, Any], ...]]:
    """The metrics of all processes in each iteration of a new run."""
    config = dataclasses.replace(config, steps=config.samples * iterations)
    with tempfile.TemporaryDirectory(prefix="matrpo-bench-") as folder:
        run = RunDirectory.create(Path(folder) / "run", config, {})
        with closing(make_training(run)) as training:
            training.run(lambda: False, lambda _iteration: None)
        return list(zip(*(process.read_metrics() for process in run.processes().values()), strict=True))
