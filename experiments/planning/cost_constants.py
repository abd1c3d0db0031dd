"""The constants of the cost model: processor seconds of a step, message or operation, fitted to measured runs.

A phase's processor seconds are a sum of its counts (`workload.PHASES`), each times a constant that is not negative:
least squares of the relative errors over the runs of `matrpo bench scaling` with at most `LARGEST_FITTED` agents. A
floating-point operation takes the same in all phases: both it and the numbers that a phase passes over grow with N, and
few small runs cannot tell which of them a phase's time is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from matrpo.envs.build import run_spec
from matrpo.errors import ConfigError
from matrpo.experiments.planning.workload import (
    PHASES,
    Counts,
    Products,
    Sizes,
    memory_bytes,
    phase_counts,
    step_counts,
)
from matrpo.runs.graph_settings import build_graph, resolve_graph_settings
from matrpo.settings.config import DecentralizedConfig, RunConfig, resolve_saved
from matrpo.topology import CommunicationGraph

LARGEST_FITTED = 12
"""Agents of the largest run that constants are fitted to: those of larger ones are predicted."""

_KEYS = {"iteration", "cpu_agent", "fisher_products", "unique_MB", *(f"cpu_{phase}" for phase in PHASES)}


@dataclass(frozen=True)
class Measurement:
    """The measurements of one run.

    Attributes:
        config: its settings.
        graph: its communication graph.
        figures: what was measured, by column of the benchmark's tables.
    """

    config: DecentralizedConfig
    graph: CommunicationGraph
    figures: Mapping[str, float]

    @property
    def agents(self) -> int:
        """N, the number of agents."""
        return self.graph.num_agents

    @property
    def sizes(self) -> Sizes:
        """The sizes that work is counted by."""
        return Sizes.of(self.config, run_spec(self.config), len(self.graph.links))

    @property
    def steps(self) -> int:
        """Local steps of an agent in an iteration, on average."""
        return round(2 * self.config.admm_iterations / self.agents)


@dataclass(frozen=True)
class Constants:
    """The cost model's constants for one kind of machine.

    Attributes:
        seconds: of each phase, processor seconds per count of `workload.PHASES`.
        products: Fisher products of an agent with the recycled solver.
        base_bytes: memory of an agent's own besides its arrays.
        machine: what they were measured on.
        task: the task that they were measured with.
        agents: the numbers of agents of the runs that they were fitted to.
    """

    seconds: Mapping[str, Counts]
    products: Products
    base_bytes: float
    machine: Mapping[str, Any]
    task: str
    agents: tuple[int, ...]

    def cost(self, phase: str, counts: Counts) -> float:
        """Processor seconds of a phase with these counts."""
        return sum(a * b for a, b in zip(self.seconds[phase], counts, strict=True))


def read_measurements(path: Path | None) -> tuple[list[Measurement], dict[str, Any]]:
    """The runs in a file of `matrpo bench scaling --json`, and the machine that they ran on.

    Args:
        path: the file; None for the one that ships with matrpo.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    if path is None:
        with as_file(files("matrpo.experiments.planning") / "constants.json") as shipped:
            return read_measurements(shipped)
    try:
        document = json.loads(path.read_text())
        return measurements(document["settings"]["runs"], document["tables"]), document["machine"]
    except OSError as error:
        raise ConfigError(f"--constants {path}: {error.strerror}") from None
    except (ValueError, LookupError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise ConfigError(f"--constants {path}: expected a file of `matrpo bench scaling --json` ({reason})") from None


def measurements(settings: Mapping[str, Any], tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Measurement]:
    """The runs in the tables of the scaling benchmark, whose rows name their run by agents, envs and steps.

    Args:
        settings: those that all runs had in common.
        tables: rows by title.

    Raises:
        KeyError: a figure is missing.
    """
    merged: dict[tuple[int, int, int], dict[str, Any]] = {}
    for rows in tables.values():
        for row in rows:
            merged.setdefault((row["agents"], row["envs"], row["steps"]), {}).update(row)
    found = []
    for (agents, envs, steps), figures in merged.items():
        if missing := _KEYS - figures.keys():
            raise KeyError(f"no {sorted(missing)[0]} of {agents} agents")
        own = {"agents": agents, "num_envs": envs, "rollout_length": steps, "admm_iterations": figures["activations"]}
        config = resolve_graph_settings(RunConfig.of(resolve_saved("measured runs", {**settings, **own}), agents))
        found.append(Measurement(config, build_graph(config), figures))
    return found


def fit(runs: Sequence[Measurement], machine: Mapping[str, Any]) -> Constants:
    """Fit the constants to those runs that have at most `LARGEST_FITTED` agents.

    Raises:
        ConfigError: there is none.
    """
    small = [run for run in runs if run.agents <= LARGEST_FITTED]
    if not small:
        raise ConfigError(f"constants are fitted to runs of at most {LARGEST_FITTED} agents, of which there are none")
    made = Products(
        *least_squares([(1, run.steps - 1) for run in small], [run.figures["fisher_products"] for run in small])
    )
    seconds = _fit_seconds(small, [_counts(run, made) for run in small])
    arrays = [memory_bytes(run.sizes, run.config, made, run.steps) for run in small]
    rest = [1e6 * run.figures["unique_MB"] - own for run, own in zip(small, arrays, strict=True)]
    base = max(0.0, float(np.mean(rest)))
    return Constants(seconds, made, base, machine, runs[0].config.task, tuple(sorted({run.agents for run in small})))


def _fit_seconds(runs: Sequence[Measurement], counts: Sequence[Mapping[str, Counts]]) -> dict[str, Counts]:
    """Processor seconds per count of each phase, from all phases of all runs together."""
    columns = {phase: [_column(phase, count) for count in PHASES[phase]] for phase in PHASES}
    order = list(dict.fromkeys(column for own in columns.values() for column in own))
    rows: list[Counts] = []
    measured: list[float] = []
    for run, counted in zip(runs, counts, strict=True):
        for phase, own in columns.items():
            by_column = dict(zip(own, counted[phase], strict=True))
            rows.append(tuple(by_column.get(column, 0.0) for column in order))
            measured.append(run.figures[f"cpu_{phase}"])
    fitted = dict(zip(order, least_squares(rows, measured), strict=True))
    return {phase: tuple(fitted[column] for column in own) for phase, own in columns.items()}


def _column(phase: str, count: str) -> tuple[str, str]:
    """The constant that a phase's count is multiplied by: the phase's own, but one for all phases' operations."""
    return ("any phase" if count == "operation" else phase, count)


def least_squares(counts: Sequence[Counts], measured: Sequence[float]) -> Counts:
    """The constants >= 0 that minimise the sum of squared relative errors.

    Args:
        counts: of each run.
        measured: seconds of each run, above 0.
    """
    rows, targets = np.array(counts, float), np.array(measured, float)
    rows /= targets[:, None]
    # Counts differ by nine orders of magnitude: to one scale, or the solver takes small columns for zero.
    scale = np.maximum(np.linalg.norm(rows, axis=0), np.finfo(float).tiny)
    solution, _ = nnls(rows / scale, np.ones(len(targets)))
    return tuple(map(float, solution / scale))


def _counts(run: Measurement, made: Products) -> dict[str, Counts]:
    steps = np.sum(step_counts(run.sizes, run.config, made, run.steps), axis=0)
    return {**phase_counts(run.sizes, run.config, made), "consensus": tuple(map(float, steps))}
