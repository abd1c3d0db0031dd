"""The job queue that executes an experiment's runs over the cores: resumable, and one failure stops no other run.

Each run is `matrpo launch` in a process of its own, then `matrpo eval`; then its record (`record.py`) says that the
run is done. A run that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import yaml

from matrpo.experiments.matrpo_command import MATRPO
from matrpo.experiments.runs.experiment import PlannedRun
from matrpo.experiments.runs.record import is_done, save_record
from matrpo.launch.processes.process import signal_at_parents_death
from matrpo.launch.screen.progress import Progress
from matrpo.runs.run_directory import RunDirectory
from matrpo.runs.storage import write_crash_safely

_GRACE = 10.0
"""Grace period of a run to save its state when the queue is stopped, in seconds."""

_POLL = 0.2


@dataclass
class Job:
    """A run in the queue, and its state.

    Attributes:
        planned: what to run.
        state: waiting, running, evaluating, done or failed.
        reason: why it failed.
    """

    planned: PlannedRun
    state: str = "waiting"
    reason: str = ""
    _process: subprocess.Popen[bytes] | None = None
    _progress: Progress | None = field(default=None, repr=False)

    @property
    def log_path(self) -> Path:
        """The log file of its processes' output."""
        return self.planned.path.with_name(f"{self.planned.path.name}.log")

    def progress(self) -> Progress | None:
        """Its progress by its metrics files; None before it began."""
        if self._progress is None and (self.planned.path / "config.yaml").is_file():
            self._progress = Progress(RunDirectory.open(self.planned.path))
        if self._progress is not None:
            self._progress.poll()
        return self._progress

    def start(self) -> None:
        """Begin or continue the run; one with faults begins anew, since its script acts in seconds."""
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
        self._run("launch", "--run", str(path), *options)
        self.state = "running"

    def poll(self) -> None:
        """Go on to the evaluation when the training has ended, and note the end of that."""
        if self._process is None or (status := self._process.poll()) is None:
            return
        if status:
            last = self.log_path.read_text(errors="replace").strip().splitlines()[-1:]
            self.state, self.reason = "failed", f"{' '.join(last)} (status {status}, {self.log_path})"
        elif self.state == "running":
            self._run("eval", str(self.planned.path), "--episodes", str(self.planned.episodes))
            self.state = "evaluating"
        else:
            run = RunDirectory.open(self.planned.path)
            newest = max((run.path / "evaluation").glob("*.json"))
            save_record(self.planned, json.loads(newest.read_text()))
            self.state = "done"

    def stop(self) -> None:
        """Have the process save its state and end."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _run(self, *arguments: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                [*MATRPO, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                preexec_fn=lambda: signal_at_parents_death(signal.SIGTERM),
            )


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
    waiting = deque(job for job in jobs if job.state == "waiting")
    running: list[Job] = []
    try:
        while waiting or running:
            while waiting and len(running) < cores:
                running.append(waiting.popleft())
                running[-1].start()
            yield jobs
            time.sleep(_POLL)
            for job in running:
                job.poll()
            running = [job for job in running if job.state in ("running", "evaluating")]
        yield jobs
    finally:
        for job in running:
            job.stop()


def calibrate(run: PlannedRun, folder: Path) -> tuple[float, int]:
    """Estimate the seconds of one iteration, and the bytes on disk of the whole run, from a few iterations of it.

    Args:
        run: what to try.
        folder: where to; it is left as it is.

    Raises:
        ClickException: the run failed.
    """
    config = run.config
    path = folder / run.path.name
    settings = {**run.settings, "steps": 3 * config.samples, "tensorboard": False, "checkpoint_every": 1}
    file = folder / f"{run.path.name}.yaml"
    write_crash_safely(file, yaml.safe_dump(settings).encode())
    command = [*MATRPO, "launch", "--in-process", "--config", str(file), "--run", str(path)]
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    if finished.returncode:
        raise click.ClickException(f"{run.name}: {finished.stderr.decode().strip().splitlines()[-1]}")
    directory = RunDirectory.open(path)
    times = [line["time"] for line in directory.environment_metrics()]
    sizes = {file: file.stat().st_size for file in path.rglob("*") if file.is_file()}
    checkpoints = sum(size for file, size in sizes.items() if file.name.startswith("checkpoint-"))
    lines = sum(size for file, size in sizes.items() if file.name == "metrics.jsonl")
    size = checkpoints // 3 * config.checkpoints_kept + lines // 3 * config.iterations
    return (times[-1] - times[0]) / (len(times) - 1), size


def say(line: str) -> None:
    """Tell the user."""
    print(line, file=sys.stderr, flush=True)
