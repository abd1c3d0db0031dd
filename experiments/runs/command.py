"""`matrpo experiment`: the papers' figures, each from one file and one command.

Matplotlib and SciPy are imported when there is something to draw.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from matrpo.errors import ConfigError
from matrpo.experiments.runs.experiment import SCALES, Experiment, PlannedRun, shipped
from matrpo.experiments.runs.record import is_done, read_record
from matrpo.experiments.runs.runner import Job, calibrate, distinct, run_all, say
from matrpo.experiments.runs.warm_worker import WarmWorker
from matrpo.launch.commands.options import PATH
from matrpo.launch.processes.process import EXIT_INTERRUPTED
from matrpo.settings.config import load_file


@click.group()
def experiment() -> None:
    """Run the papers' experiments, or your own."""


@experiment.command("list")
def list_experiments() -> None:
    """The experiments that ship with matrpo."""
    for path in shipped():
        content = load_file(path)
        click.echo(f"{path.stem}\n    {content['source']}: {content['title']}")


@experiment.command("run")
@click.argument("file", type=PATH)
@click.option("--scale", type=click.Choice(SCALES), default="small", show_default=True, help="How much of it.")
@click.option("--out", type=PATH, help="Folder of runs, plots and tables [runs/FILE-SCALE].")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=os.cpu_count(), show_default="cores", help="Runs at a time."
)
@click.option("--line", "lines", multiple=True, help="Run this line alone; may be given again for more.")
@click.option("--dry-run", is_flag=True, help="Print the plan, and what it takes by a short trial of each line.")
def run_experiment(file: Path, scale: str, out: Path | None, jobs: int, lines: tuple[str, ...], dry_run: bool) -> int:
    """Run an experiment FILE, or one of `matrpo experiment list`: its runs, then plots and tables of all that are done.

    The same command after an interruption goes on where it stopped; finished runs are not run again.
    """
    plan = Experiment.load(file, scale)
    folder = out or Path("runs") / f"{plan.name}-{scale}"
    runs = list(plan.runs(folder))
    for run in runs:
        run.check()
        if is_done(run):
            read_record(run)
    queue = distinct(_chosen(runs, lines))
    if dry_run:
        _print_plan(plan, queue, jobs)
        return 0
    try:
        failed = _work(queue, jobs)
    except KeyboardInterrupt:
        say(f"stopped, {sum(map(is_done, queue))} of {len(queue)} runs are done; the same command goes on")
        return EXIT_INTERRUPTED
    from matrpo.experiments.runs.outcome import save_outcome
    from matrpo.experiments.runs.tables import final_table, markdown

    for path in save_outcome(plan, runs, folder):
        say(f"saved {path}")
    done = [run for run in runs if is_done(run)]
    if done:
        click.echo(markdown(final_table(done)))
    for job in failed:
        say(f"failed: {job.planned.name}, seed {job.planned.seed}: {job.reason}")
    return 1 if failed else 0


def _chosen(runs: Sequence[PlannedRun], lines: Sequence[str]) -> list[PlannedRun]:
    """The runs of some lines, or all."""
    names = list(dict.fromkeys(run.line for run in runs))
    for line in lines:
        if line not in names:
            raise ConfigError(f"--line {line}: the lines are {', '.join(names)}")
    return [run for run in runs if not lines or run.line in lines]


def _work(runs: Sequence[PlannedRun], jobs: int) -> list[Job]:
    """Execute all runs with a live table of the queue; the failed jobs."""
    console = Console(stderr=True, highlight=False)
    last: list[Job] = []
    states: dict[int, str] = {}
    with Live(console=console, auto_refresh=False, transient=True) as live, closing(run_all(runs, jobs)) as queue:
        for last in queue:
            if console.is_terminal:
                live.update(_table(last, console.height), refresh=True)
                continue
            for number, job in enumerate(last):
                if states.get(number, "waiting") != job.state:
                    states[number] = job.state
                    say(f"{job.planned.name}, seed {job.planned.seed}: {job.state} {job.reason}".rstrip())
    return [job for job in last if job.state == "failed"]


def _table(jobs: Sequence[Job], height: int) -> Table:
    """The table of the queue: jobs that run and that are next, as far as there is room."""
    counts = {state: sum(job.state == state for job in jobs) for state in ("done", "failed", "waiting")}
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    table = Table(box=None, title=f"{len(jobs)} runs: {summary}", title_justify="left", header_style="dim")
    for column in ("run", "seed", "state", "", "return", "left"):
        table.add_column(column, no_wrap=True)
    order = ("running", "failed", "waiting", "done")
    for job in sorted(jobs, key=lambda job: order.index(job.state))[: max(1, height - 4)]:
        progress = job.progress() if job.state == "running" else None
        bar = ProgressBar(progress.total_steps, progress.steps, width=20) if progress else ""
        shown = progress.latest_return if progress else None
        left = progress.seconds_left if progress else None
        table.add_row(
            job.planned.name,
            str(job.planned.seed),
            job.state,
            bar,
            "" if shown is None else f"{shown:.1f}",
            "" if left is None else f"{left / 60:.0f} min",
        )
    return table


def _print_plan(plan: Experiment, runs: Sequence[PlannedRun], jobs: int) -> None:
    table = Table(title=f"{plan.source}: {plan.title} ({plan.scale})", title_justify="left")
    for column in ("run", "seeds", "steps", "hours each", "MB each"):
        table.add_column(column, justify="left" if column == "run" else "right")
    hours = megabytes = 0.0
    with tempfile.TemporaryDirectory(prefix="matrpo-plan-") as folder, closing(WarmWorker()) as worker:
        for run in (run for run in runs if run.seed == 0):
            say(f"trying {run.name}")
            seconds, size = calibrate(run, Path(folder), worker)
            own = seconds * run.config.iterations / 3600
            table.add_row(run.name, str(plan.seeds), f"{run.config.steps:,}", f"{own:.2f}", f"{size / 1e6:.1f}")
            hours, megabytes = hours + plan.seeds * own, megabytes + plan.seeds * size / 1e6
    console = Console()
    console.print(table)
    finished = sum(map(is_done, runs))
    console.print(f"{len(runs)} runs, {finished} done: {hours:.1f} hours one by one, {hours / jobs:.1f} by {jobs}")
    console.print(f"disk: {megabytes:.0f} MB")
