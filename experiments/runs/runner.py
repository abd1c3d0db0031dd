"""The job queue that executes an experiment's runs over the cores: resumable, and one failure stops no other run.

Each run is `matrpo launch`, then `matrpo eval`, in a process that a worker (`warm_worker.py`) forks, short runs of a
task several to a process; then its record (`record.py`) says that the run is done. A run that was interrupted goes on
from its last checkpoint.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import yaml

from matrpo.experiments.runs.experiment import PlannedRun
from matrpo.experiments.runs.record import is_done, save_record
from matrpo.experiments.runs.warm_worker import WarmWorker
from matrpo.launch.commands.options import settings_read
from matrpo.launch.screen.progress import Progress
from matrpo.runs.run_directory import RunDirectory
from matrpo.runs.storage import write_crash_safely

_POLL = 0.2

_SHORT = 5000
"""Steps of a run up to which importing and compiling for its task takes longer than the run."""


@dataclass
class Job:
    """A run in the queue, and its state.

    Attributes:
        planned: what to run.
        state: waiting, running, done or failed.
        reason: why it failed.
    """

    planned: PlannedRun
    state: str = "waiting"
    reason: str = ""
    _worker: WarmWorker | None = field(default=None, repr=False)
    _progress: Progress | None = field(default=None, repr=False)

    @property
    def log_path(self) -> Path:
        """The log file of its processes' output."""
        return self.planned.path.with_name(f"{self.planned.path.name}.log")

    @functools.cached_property
    def shared(self) -> str | None:
        """What it shares a process for: its task, if it is short."""
        config = self.planned.config
        return config.task if config.steps <= _SHORT and not self.planned.faults else None

    def progress(self) -> Progress | None:
        """Its progress by its metrics files; None before it began."""
        if self._progress is None and (self.planned.path / "config.yaml").is_file():
            self._progress = Progress(RunDirectory.open(self.planned.path))
        if self._progress is not None:
            self._progress.poll()
        return self._progress

    def start(self, worker: WarmWorker) -> None:
        """Have a worker begin or continue the run; one with faults begins anew, since its script acts in seconds."""
        self._worker = worker
        planned, path = self.planned, self.planned.path
        settings = path.with_name(f"{path.name}.yaml")
        write_crash_safely(settings, yaml.safe_dump({**planned.settings, "tensorboard": False}).encode())
        if planned.faults:
            shutil.rmtree(path, ignore_errors=True)
            options = ["--config", str(settings), "--faults", planned.faults]
        elif (path / "config.yaml").is_file():
            options = ["--in-process", "--resume", "-o", f"steps={planned.config.steps}"]
        else:
            options = ["--in-process", "--config", str(settings)]
        training = ("launch", "--run", str(path), *options)
        evaluation = ("eval", str(path), "--episodes", str(planned.episodes))
        worker.start(self.log_path, training, evaluation, shared=self.shared)
        self.state = "running"

    def poll(self) -> WarmWorker | None:
        """Save the record if the run has ended; the worker, once it is free."""
        assert self._worker is not None
        status = self._worker.poll()
        if status is None:
            return None
        if status:
            self.state, self.reason = "failed", f"{_last_line(self.log_path)} (status {status}, {self.log_path})"
        else:
            run = RunDirectory.open(self.planned.path)
            newest = max((run.path / "evaluation").glob("*.json"))
            save_record(self.planned, json.loads(newest.read_text()))
            self.state = "done"
        return self._worker


def distinct(planned: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Runs without duplicates: of those that share a run directory, the first."""
    first: dict[Path, PlannedRun] = {}
    for run in planned:
        first.setdefault(run.path, run)
    return list(first.values())


def run_all(planned: Sequence[PlannedRun], cores: int) -> Generator[list[Job], None, None]:
    """Execute all runs that are not done, on so many cores; yields all jobs periodically, until the last has ended.

    Closing the generator stops the runs that go on, each with a checkpoint.
    """
    jobs = [Job(run) for run in planned]
    for job in jobs:
        if is_done(job.planned):
            job.state = "done"
    waiting = [job for job in jobs if job.state == "waiting"]
    running: list[Job] = []
    workers = [WarmWorker() for _ in range(min(cores, len(waiting)))]
    free = [*workers]
    at_hand: dict[WarmWorker, str | None] = {}
    try:
        while waiting or running:
            while waiting and free:
                next_worker = free.pop()
                job = _next(waiting, next_worker, at_hand)
                at_hand[next_worker] = job.shared
                waiting.remove(job)
                running.append(job)
                job.start(next_worker)
            yield jobs
            time.sleep(_POLL)
            free += [worker for job in running if (worker := job.poll()) is not None]
            running = [job for job in running if job.state == "running"]
        yield jobs
    finally:
        for worker in workers:
            worker.close()


def _next(waiting: Sequence[Job], worker: WarmWorker, at_hand: Mapping[WarmWorker, str | None]) -> Job:
    """The run that a worker takes: of what its process is for, or else of what no other's is, if there is one."""
    own = at_hand.get(worker)
    taken = set(at_hand.values()) - {None}
    same = (job for job in waiting if own is not None and job.shared == own)
    others = (job for job in waiting if job.shared not in taken)
    return next(same, None) or next(others, waiting[0])


def calibrate(run: PlannedRun, folder: Path, worker: WarmWorker) -> tuple[float, int]:
    """Estimate the seconds of one iteration, and the bytes on disk of the whole run, from a few iterations of it.

    Algorithms that will learn from replayed transitions do so from the end of the first one on: what they do until
    `warmup_steps` are over costs little.

    Args:
        run: what to try.
        folder: where to; it is left as it is.
        worker: what runs it.

    Raises:
        ClickException: the run failed.
    """
    config = run.config
    path = folder / run.path.name
    settings = {**run.settings, "steps": 3 * config.samples, "tensorboard": False, "checkpoint_every": 1}
    if "warmup_steps" in settings_read(config.algo) and config.warmup_steps < config.steps:
        settings["warmup_steps"] = min(config.warmup_steps, config.samples)
    file, log = (folder / f"{run.path.name}.{kind}" for kind in ("yaml", "log"))
    write_crash_safely(file, yaml.safe_dump(settings).encode())
    command = ("launch", "--in-process", "--config", str(file), "--run", str(path))
    worker.start(log, command, shared=config.task)
    if worker.poll(timeout=None):
        raise click.ClickException(f"{run.name}: {_last_line(log)}")
    directory = RunDirectory.open(path)
    times = [line["time"] for line in directory.environment_metrics()]
    sizes = {file: file.stat().st_size for file in path.rglob("*") if file.is_file()}
    checkpoints = sum(size for file, size in sizes.items() if file.name.startswith("checkpoint-"))
    lines = sum(size for file, size in sizes.items() if file.name == "metrics.jsonl")
    size = checkpoints // 3 * config.checkpoints_kept + lines // 3 * config.iterations
    return (times[-1] - times[0]) / (len(times) - 1), size


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1] if lines else "it ended without a word"


def say(line: str) -> None:
    """Tell the user."""
    print(line, file=sys.stderr, flush=True)
