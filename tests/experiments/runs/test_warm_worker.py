"""Which commands of a worker share a process."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from matrpo.experiments.runs.warm_worker import WarmWorker


@pytest.fixture
def worker() -> Iterator[WarmWorker]:
    with closing(WarmWorker()) as worker:
        yield worker


def run(worker: WarmWorker, log: Path, command: str, shared: str | None) -> tuple[int | None, int | None]:
    """Process id and exit status of a command."""
    worker.start(log, (command,), shared=shared)
    return worker._child, worker.poll(timeout=None)


def test_commands_with_one_word_share_a_process_until_one_fails(worker: WarmWorker, tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = ["a", "a", "b", "a", None, None]
    pids, statuses = zip(*(run(worker, log, "--version", word) for word in words), strict=True)
    assert set(statuses) == {0}
    assert pids[0] == pids[1]
    assert len(set(pids)) == 5
    first, wrong, after = (run(worker, log, command, "a") for command in ("--version", "--wrong", "--version"))
    assert (first[1], wrong[1], after[1]) == (0, 2, 0)
    assert first[0] == wrong[0] != after[0]


def test_each_run_writes_to_its_own_log(worker: WarmWorker, tmp_path: Path) -> None:
    for name, command in (("one", "--version"), ("two", "--wrong")):
        run(worker, tmp_path / name, command, "a")
    assert (tmp_path / "one").read_text().startswith("matrpo ")
    assert "No such option" in (tmp_path / "two").read_text()


def test_a_child_that_is_killed_between_two_runs_harms_neither(worker: WarmWorker, tmp_path: Path) -> None:
    first, _ = run(worker, tmp_path / "log", "--version", "a")
    os.kill(first, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(first)], timeout=1)
    second, status = run(worker, tmp_path / "log", "--version", "a")
    assert status == 0
    assert second != first


def test_a_run_leaves_the_same_checkpoints_whatever_ran_in_its_process_before(
    worker: WarmWorker, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        settings = ["--agents", "2", "--steps", "40", "-o", "num_envs=2", "-o", "rollout_length=10"]
        arguments = ["launch", "--in-process", "--no-tensorboard", *settings, "--run", str(tmp_path / name)]
        worker.start(tmp_path / "log", arguments, shared="navigation")
        assert worker.poll(timeout=None) == 0, (tmp_path / "log").read_text()
    checkpoints = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*-000002.safetensors")]
    assert len(checkpoints) == 3
    for path in checkpoints:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
