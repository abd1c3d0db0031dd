"""Which commands of a worker share a process."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

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
