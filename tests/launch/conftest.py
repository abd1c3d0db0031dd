"""The command line, run in the test's own process, and a small run whose agents do what the test says."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Matrpo
from scripted_agents import CONFIG, Agents, line_cluster, scripted_agents

from matrpo.launch import cli
from matrpo.launch.processes.process import STOPS
from matrpo.runs.run_directory import RunDirectory


@pytest.fixture(autouse=True)
def references_of_loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs step too little to be worth loading the compiled loops, which the slow ones do; the bits are equal."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.fixture
def matrpo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Matrpo]:
    """Runs a command line; gives its exit status, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "100")
    handlers = {number: signal.getsignal(number) for number in STOPS}

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["matrpo", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, captured.out, captured.err

    yield run
    for number, handler in handlers.items():  # A process ignores them in its last moments.
        signal.signal(number, handler)


@pytest.fixture
def small_run(tmp_path: Path) -> RunDirectory:
    """Two agents, two iterations of two steps."""
    return RunDirectory.create(tmp_path / "run", CONFIG, {})


@pytest.fixture
def agents(small_run: RunDirectory, tmp_path: Path) -> Iterator[Agents]:
    """The small run's agents, with its server waiting for them."""
    with scripted_agents(small_run, line_cluster(small_run, tmp_path)) as agents:
        yield agents
