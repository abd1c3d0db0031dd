"""Starts real runs, small enough for tests, and looks at what they leave."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from click.testing import CliRunner

from matrpo.errors import ConfigError
from matrpo.launch.cli import cli
from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.launch.processes.process import STOPS
from matrpo.launch.processes.supervisor import check_ports

TINY = {"num_envs": 4, "rollout_length": 10, "hidden_sizes": [8, 8], "steps": 480}
"""Settings of 12 iterations that take a second or two."""

LAST = 12

Matrpo = Callable[..., tuple[int, str, str]]
"""Runs a command line; gives its exit status, standard output and standard error."""

_PATIENCE = 120.0
TIMINGS = ("time", "seconds_", "cpu_seconds", "steps_per_second", "rollout_steps_per_second")
"""How metrics begin that differ from run to run."""


def assert_mistake(result: tuple[int, str, str], *words: str) -> None:
    """Exit status 2, one line on standard error that holds these words, and nothing started or left behind."""
    status, out, err = result
    assert (status, out) == (2, "")
    assert err.startswith("matrpo: error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert multiprocessing.active_children() == []
    assert list(Path.cwd().iterdir()) == []


def command(run: Path, *arguments: str) -> list[str]:
    """A command line of `matrpo launch` in the folder `run`."""
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    return [sys.executable, "-m", "matrpo.launch.cli", "launch", "--run", str(run), *settings, *arguments]


def train(run: Path, *arguments: str, env: dict[str, str] | None = None) -> Path:
    """Train to the end."""
    result = subprocess.run(command(run, *arguments), capture_output=True, text=True, timeout=_PATIENCE, env=env)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    return run


def train_here(run: Path, *arguments: str) -> Path:
    """Train to the end with `--in-process`, by the command line, in the process of the test."""
    handlers = {number: signal.getsignal(number) for number in STOPS}
    try:
        typed = command(run, *arguments, "--in-process")[3:]
        result = CliRunner().invoke(cli, typed, catch_exceptions=False, standalone_mode=False)
    finally:
        for number, handler in handlers.items():  # A process ignores them in its last moments.
            signal.signal(number, handler)
    assert result.return_value == 0, result.output
    assert result.stdout == ""
    return run


def start(run: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start training, in a session of its own as a terminal would."""
    return subprocess.Popen(
        command(run, *arguments), stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until a condition holds; the process must go on meanwhile."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_iterations(run: Path, count: int) -> Callable[[], bool]:
    """Whether the environment server has written so many lines."""

    def check() -> bool:
        file = run / "env" / "metrics.jsonl"
        return file.exists() and len(file.read_text().splitlines()) >= count

    return check


def names(processes: list[psutil.Process]) -> list[str]:
    """What `ps` calls the processes of a run, without what Python starts for itself."""
    found = (" ".join(process.cmdline()).strip() for process in processes)
    return sorted(name for name in found if name.startswith("matrpo"))


def survivors(processes: list[psutil.Process], within: float) -> list[psutil.Process]:
    """Which of these processes are still there after a while."""
    deadline = time.monotonic() + within
    while (left := [process for process in processes if _lives(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def socket_directory(run: Path) -> Path:
    """Where the run has its sockets."""
    return Path(Cluster.load(run / "cluster.yaml").servers[0].removeprefix("ipc://")).parent


def checkpoints(run: Path, iteration: int = LAST) -> dict[str, bytes]:
    """The checkpoint files of one iteration, of all processes."""
    files = run.glob(f"**/checkpoint-{iteration:06d}.*")
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def metrics(run: Path, *, without: tuple[str, ...] = ()) -> dict[str, list[dict[str, Any]]]:
    """The metrics of all processes, without those that tell time and those named."""
    ignored = (*TIMINGS, *without)
    return {
        str(file.relative_to(run)): [
            {key: value for key, value in json.loads(line).items() if not key.startswith(ignored)}
            for line in file.read_text().splitlines()
        ]
        for file in sorted(run.glob("**/metrics.jsonl"))
    }


def free_ports(count: int) -> int:
    """The first of so many TCP ports in a row that nobody listens at.

    Every test process has its own thousand, below those that the system gives to connections: nobody is faster.
    """
    begin = 20_000 + 1000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for first in range(begin, begin + 1000, count):
        with contextlib.suppress(ConfigError):
            check_ports(range(first, first + count))
            return first
    raise AssertionError("no free ports")


def session_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All processes of a run that `start` started."""
    return [other for other in psutil.process_iter() if _session(other) == process.pid]


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
