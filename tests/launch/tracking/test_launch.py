"""`matrpo launch --tracker`: the process that follows the run, what it leaves, and that no run depends on it."""

from __future__ import annotations

import importlib.metadata
import select
import signal
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest
from offline_runs import OfflineRun, read_offline_runs
from running import Matrpo, command, survivors, train_here, wait_for

from matrpo.launch.tracking.child import TrackerChild
from matrpo.runs.run_directory import RunDirectory
from matrpo.runs.scalars import scalars
from matrpo.runs.storage import locked
from matrpo.settings.config import Config, to_dict

SMALL = ("--agents=2", "--topology=line", "--no-kl-decay")
LAST = 14


def kept_by_wandb(run: Path, process: str) -> list[OfflineRun]:
    return [one for one in read_offline_runs(run / "tracker") if one.id.endswith(f"-{process}")]


def tags(line: dict[str, Any]) -> dict[str, float]:
    return scalars({name: value for name, value in line.items() if name not in ("iteration", "steps", "time")})


def untimed(values: dict[str, float]) -> dict[str, float]:
    return {tag: value for tag, value in values.items() if "second" not in tag and "SPS" not in tag}


def test_curves_are_the_metrics_and_go_on_when_a_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "first"
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("HTTPS_PROXY", "HTTP_PROXY"):  # where whatever goes out to others would go
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        train_here(path, *SMALL, "--tracker=wandb")
        assert select.select([proxy], [], [], 0.0)[0] == []  # nobody was to be reached
    run = RunDirectory.open(path)
    for file in path.glob("**/*-000012.*"):  # so that the last two iterations are repeated
        file.unlink()
    train_here(path, *SMALL, "--resume", f"--steps={LAST * run.config.samples}")
    run = RunDirectory.open(path)
    for process, directory in run.processes().items():
        first, second = kept_by_wandb(path, process.slug)
        assert first.id == second.id
        assert {first.group, second.group} == {"first"}
        assert {key: second.config[key] for key in to_dict(run.config)} == to_dict(run.config)
        lines = directory.read_metrics()
        points = first.points + second.points
        assert [steps for steps, _ in points] == [line["steps"] for line in lines] == list(range(40, 561, 40))
        for (_, values), line in zip(points, lines, strict=True):
            assert untimed(values) == untimed(tags(line))
            if line["iteration"] not in (11, 12):  # whose seconds are those of the first time
                assert values == tags(line)


def test_a_tracker_that_fails_is_named_and_the_run_goes_on(
    matrpo: Matrpo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "sideways")
    status, _, err = matrpo(*command(tmp_path / "run", *SMALL, "--tracker=wandb", "--in-process")[3:])
    assert status == 0
    (line,) = [line for line in err.splitlines() if "--tracker" in line]
    assert line.startswith("--tracker wandb failed (wandb: ")
    assert "sideways" in line
    assert line.endswith(f"`matrpo track {tmp_path / 'run'}` sends what is missing")


@pytest.fixture
def child(tmp_path: Path) -> TrackerChild:
    """The process that follows a run that has written nothing yet."""
    run = RunDirectory.create(tmp_path / "run", Config(agents=2, topology="line", tracker="wandb"), {})
    return TrackerChild(run, lambda line: (tmp_path / "said").write_text(line))


def test_a_tracker_that_is_killed_is_named_and_leaves_nothing(child: TrackerChild, tmp_path: Path) -> None:
    run = RunDirectory.open(tmp_path / "run")
    run.env.log_metrics({"iteration": 1, "steps": 1, "episodes": 2})
    process = psutil.Process(child.process.pid)
    wait_for(lambda: bool(process.children()), child.process)
    started = [process, *process.children(recursive=True)]
    process.send_signal(signal.SIGKILL)
    assert not survivors(started, within=60.0)
    child.look()
    assert (tmp_path / "said").read_text().startswith("--tracker wandb failed (killed by SIGKILL); the run goes on")
    child.kill()


def test_a_tracker_ends_with_its_launcher(child: TrackerChild) -> None:
    child.finish()
    assert child.process.returncode == 0


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_what_is_not_installed_is_named_before_anything_begins(
    matrpo: Matrpo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def version(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    status, out, err = matrpo("launch", f"--tracker={name}", "--run", tmp_path / "run")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"--tracker {name} needs the package" in err
    assert f"pip install 'matrpo[{name}]'" in err
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_tracker_has_to_be_told_one(matrpo: Matrpo, tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", Config(agents=2, topology="line"), {})
    status, _, err = matrpo("track", tmp_path / "run")
    assert (status, err.count("\n")) == (2, 1)
    assert "name one with --to wandb or mlflow" in err


def test_two_do_not_send_one_run(matrpo: Matrpo, tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", Config(agents=2, topology="line"), {})
    (tmp_path / "run" / "tracker").mkdir()
    with locked(tmp_path / "run" / "tracker", ""):
        status, _, err = matrpo("track", tmp_path / "run", "--to", "wandb")
    assert (status, err.count("\n")) == (2, 1)
    assert "another `matrpo track` sends this run" in err
