"""`matrpo study`: variants of a base setting over seeds, as a queue over the cores, and the table of how they learned.

A study file (YAML) holds `base` settings, `seeds`, and `variants`: a name for each group of changed settings. The
first variant is the one that the table compares the others with. A variant with the key `faults` is a run of
processes, by that fault script or, if it is empty, without faults; the others run in one process, to the same bits.
Every run has its own run directory; one that is finished is not run again.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import math
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import scipy.stats
import yaml
from rich.console import Console
from rich.progress import track

from matrpo import algorithm_table
from matrpo.config import ConfigError, load_file, resolve
from matrpo.envs.registry import resolve_num_agents
from matrpo.experiments.matrpo_command import MATRPO
from matrpo.graph_settings import build_graph
from matrpo.launch.fault_script import FaultScript
from matrpo.launch.options import resolve_layers
from matrpo.launch.process import signal_at_parents_death
from matrpo.run_directory import SERVER, RunDirectory, write_atomically

_RESULT = "study.json"
_EPISODES = 100
_TAIL = 5
_TAIL_STEPS = 20_000
"""The steps at a run's end whose episodes are its training return."""


@dataclass(frozen=True)
class Study:
    """A study file's content.

    Attributes:
        base: settings of all runs.
        variants: changed settings by variant name; `faults` among them is the name of a fault script, or None.
        seeds: how many seeds each variant runs with, from 0.
    """

    base: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    seeds: int

    @classmethod
    def load(cls, path: Path) -> Study:
        """Read a study file.

        Raises:
            ConfigError: a key is missing or unknown, or a setting is not valid.
        """
        content = load_file(path)
        if set(content) != {"base", "variants", "seeds"}:
            raise ConfigError(
                f"{path}: expected the keys base, variants and seeds, found {', '.join(map(str, content))}"
            )
        variants = {str(name): dict(changes or {}) for name, changes in content["variants"].items()}
        study = cls(dict(content["base"]), variants, int(content["seeds"]))
        for name, changes in variants.items():
            settings = {key: value for key, value in changes.items() if key != "faults"}
            config = resolve((f"{path}, base", study.base), (f"{path}, variant {name}", settings))
            agents = resolve_num_agents(config.task, config.agents)
            if "faults" in changes and algorithm_table.is_central(config.algo):
                raise ConfigError(f"{path}, variant {name}: faults are for processes, {config.algo} trains in one")
            if changes.get("faults"):
                FaultScript.load(changes["faults"], build_graph(dataclasses.replace(config, agents=agents)))
        return study


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/study"), show_default=True, help="Run folder."
)
@click.option("--table", type=click.Path(path_type=Path), help="Also write the table to this Markdown file.")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=os.cpu_count(), show_default="cores", help="Runs at a time."
)
def study(file: Path, out: Path, table: Path | None, jobs: int) -> int:
    """Run the variants of a study FILE and print how they learned.

    Fault scripts act in seconds: run those that have them with --jobs 1.
    """
    plan = Study.load(file)
    runs = [(name, seed, out / f"{name}_s{seed}") for name in plan.variants for seed in range(plan.seeds)]
    missing = [(plan.base | plan.variants[name], seed, path) for name, seed, path in runs if not _is_done(path)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        futures = [pool.submit(run_one, *arguments) for arguments in missing]
        done = concurrent.futures.as_completed(futures)
        for future in track(done, "study", len(futures), console=Console(stderr=True)):
            future.result()
    results = {name: [_read(path) for n, _, path in runs if n == name] for name in plan.variants}
    rows = summarize(results)
    text = markdown_table(rows)
    click.echo(text)
    if table:
        settings = yaml.safe_dump(plan.base, sort_keys=False, default_flow_style=True).strip()
        head = f"Each row: {plan.seeds} seeds, base settings `{settings}`.\n\n"
        write_atomically(table, (head + text + "\n").encode())
    return 0


def run_one(settings: Mapping[str, Any], seed: int, path: Path) -> None:
    """Train one run, evaluate it, and write its `study.json`."""
    from matrpo.evaluation import evaluate

    signal_at_parents_death(signal.SIGTERM)
    os.environ["OMP_NUM_THREADS"] = "1"
    settings = {**settings, "seed": seed, "tensorboard": False}
    began = time.process_time()
    if "faults" in settings:
        _train_as_processes(settings, path)
    else:
        _train_in_process(settings, path)
    seconds = time.process_time() - began
    run = RunDirectory.open(path)
    result: dict[str, float | None] = {
        "return": evaluate(run, _EPISODES).return_mean,
        "return_stochastic": evaluate(run, _EPISODES, deterministic=False).return_mean,
        "return_training": training_return(run.env.read_metrics()),
        "cpu_seconds": None if "faults" in settings else seconds,
    }
    learners = [process.read_metrics() for name, process in run.processes().items() if name != SERVER]
    for key in ("kl", "consensus_residual", "fisher_products", "step_fraction", "explained_variance"):
        means = [mean for lines in learners if (mean := _tail_mean(lines, key)) is not None]
        result[key] = statistics.fmean(means) if means else None
    write_atomically(path / _RESULT, json.dumps(result).encode())


def summarize(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, str]]:
    """The rows of a study's table: means over seeds, and how far outcomes are from certain (see `interval`).

    Args:
        results: the content of each run's `study.json`, a list by seed for each variant.
    """
    first = next(iter(results.values()))
    return [
        {
            "variant": name,
            "evaluated return": interval([run["return"] for run in runs], ".1f"),
            "better than the first by": interval(
                [gain(run, other) for run, other in zip(runs, first, strict=True)], "+.1f"
            )
            + " %",
            "with drawn actions": interval([run["return_stochastic"] for run in runs], ".1f"),
            "in training": interval([run["return_training"] for run in runs], ".1f"),
            "KL": _mean(runs, "kl", 4),
            "residual": _mean(runs, "consensus_residual", 4),
            "Fisher products": _mean(runs, "fisher_products", 0),
            "CPU s": _mean(runs, "cpu_seconds", 0),
        }
        for name, runs in results.items()
    ]


def training_return(lines: Sequence[Mapping[str, Any]]) -> float:
    """Mean team return of the episodes that ended in the last 20,000 steps of training; NaN if none did.

    Args:
        lines: the environment's metrics.
    """
    last = [line for line in lines if line["steps"] > lines[-1]["steps"] - _TAIL_STEPS and line["episodes"]]
    episodes = sum(line["episodes"] for line in last)
    return sum(line["team_return_mean"] * line["episodes"] for line in last) / episodes if last else math.nan


def gain(run: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """By how many percent of the other's absolute return a run's evaluated return is higher."""
    return float(100 * (run["return"] - other["return"]) / abs(other["return"]))


def interval(values: Sequence[float], digits: str) -> str:
    """Mean and half width of Student's 95% confidence interval, as text; of two values mean and range."""
    mean = format(statistics.fmean(values), digits)
    if len(values) < 3:
        return mean if len(values) < 2 else f"{mean} ({min(values):{digits}} to {max(values):{digits}})"
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean} ± {half:.1f}"


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Rows with equal keys as a Markdown table."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _train_in_process(settings: Mapping[str, Any], path: Path) -> None:
    from matrpo.training import make_training

    config = resolve_layers([("study", settings)])
    run = RunDirectory.open(path) if path.exists() else RunDirectory.create(path, config, {})
    start = run.latest_common_iteration()
    run.rewind(start)
    make_training(run, start).run(lambda: False, lambda _: None)


def _train_as_processes(settings: Mapping[str, Any], path: Path) -> None:
    """A run that was broken off begins anew: faults happened where they will not happen again."""
    shutil.rmtree(path, ignore_errors=True)
    options = [part for key, value in settings.items() if key != "faults" for part in ("-o", f"{key}={value}")]
    if settings["faults"]:
        options += ["--faults", settings["faults"]]
    command = [*MATRPO, "launch", "--run", str(path), *options]
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.with_name(f"{path.name}.log")
    with open(log, "wb") as file:
        status = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stderr=file,
            preexec_fn=lambda: signal_at_parents_death(signal.SIGTERM),
        ).returncode
    if status:
        raise click.ClickException(f"{path} ended with status {status}: see {log}")


def _mean(runs: Sequence[Mapping[str, Any]], key: str, digits: int) -> str:
    """The mean over runs, as text; a dash where it was not measured."""
    values = [run[key] for run in runs if run[key] is not None]
    return f"{statistics.fmean(values):.{digits}f}" if values else "-"


def _tail_mean(lines: list[dict[str, Any]], key: str) -> float | None:
    """The mean over the last iterations; None where it was not measured."""
    values = [line[key] for line in lines[-_TAIL:] if line.get(key) is not None]
    return statistics.fmean(values) if values else None


def _is_done(path: Path) -> bool:
    return (path / _RESULT).is_file()


def _read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((path / _RESULT).read_text())
    return result
