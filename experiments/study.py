"""`matrpo study`: variants of a base setting over seeds, as a queue over the cores, and the table of how they learned.

A study file (YAML) holds `base` settings, `steps`, `seeds`, and `variants`: a name for each group of changed settings.
Every run has its own run directory; one that is finished is not run again.
"""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml
from rich.console import Console
from rich.progress import track

from matrpo.config import ConfigError, load_file, resolve
from matrpo.run_directory import RunDirectory, write_atomically

_RESULT = "study.json"
_EPISODES = 100
_TAIL = 5


@dataclass(frozen=True)
class Study:
    """A study file's content.

    Attributes:
        base: settings of all runs.
        variants: changed settings by variant name.
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
            resolve((f"{path}, base", study.base), (f"{path}, variant {name}", changes))
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
    """Run the variants of a study FILE and print how they learned."""
    plan = Study.load(file)
    runs = [(name, seed, out / f"{name}_s{seed}") for name in plan.variants for seed in range(plan.seeds)]
    missing = [(plan.base | plan.variants[name], seed, path) for name, seed, path in runs if not _is_done(path)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        futures = [pool.submit(run_one, *arguments) for arguments in missing]
        done = concurrent.futures.as_completed(futures)
        for future in track(done, "study", len(futures), console=Console(stderr=True)):
            future.result()
    rows = [_summary(name, [_read(path) for n, _, path in runs if n == name]) for name in plan.variants]
    text = markdown_table(rows)
    click.echo(text)
    if table:
        settings = yaml.safe_dump(plan.base, sort_keys=False, default_flow_style=True).strip()
        head = f"Each row: {plan.seeds} seeds, base settings `{settings}`.\n\n"
        write_atomically(table, (head + text + "\n").encode())
    return 0


def run_one(settings: Mapping[str, Any], seed: int, path: Path) -> None:
    """Train one run in this process, evaluate it, and write its `study.json`."""
    from matrpo.evaluation import evaluate
    from matrpo.training import InProcessTraining

    os.environ["OMP_NUM_THREADS"] = "1"
    config = resolve(("study", {**settings, "seed": seed, "tensorboard": False}))
    run = RunDirectory.open(path) if path.exists() else RunDirectory.create(path, config, {})
    start = run.latest_common_iteration()
    run.rewind(start)
    began = time.process_time()
    InProcessTraining(run, start).run(lambda: False, lambda _: None)
    seconds = time.process_time() - began
    result = {
        "return": evaluate(run, _EPISODES).return_mean,
        "return_stochastic": evaluate(run, _EPISODES, deterministic=False).return_mean,
        "return_training": _tail_mean(run.env.read_metrics(), "team_return_mean"),
        "cpu_seconds": seconds,
    }
    agents = [run.agent(q).read_metrics() for q in range(run.num_agents)]
    for key in ("kl", "consensus_residual", "fisher_products", "step_fraction", "explained_variance"):
        result[key] = statistics.fmean(_tail_mean(lines, key) for lines in agents)
    write_atomically(path / _RESULT, json.dumps(result).encode())


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Rows with equal keys as a Markdown table."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _summary(name: str, results: list[dict[str, float]]) -> dict[str, str]:
    def column(key: str, digits: int) -> str:
        values = [result[key] for result in results]
        spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if key.startswith("return") else ""
        return f"{statistics.fmean(values):.{digits}f}{spread}"

    return {
        "variant": name,
        "evaluated return": column("return", 0),
        "with drawn actions": column("return_stochastic", 0),
        "KL": column("kl", 4),
        "residual": column("consensus_residual", 4),
        "Fisher products": column("fisher_products", 0),
        "CPU s": column("cpu_seconds", 0),
    }


def _tail_mean(lines: list[dict[str, Any]], key: str) -> float:
    values = [line[key] for line in lines[-_TAIL:] if line.get(key) is not None]
    return statistics.fmean(values) if values else float("nan")


def _is_done(path: Path) -> bool:
    return (path / _RESULT).is_file()


def _read(path: Path) -> dict[str, float]:
    result: dict[str, float] = json.loads((path / _RESULT).read_text())
    return result
