"""Curves in MLflow's own database, as MLflow reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from matrpo.launch.tracking.follower import Follower
from matrpo.launch.tracking.ledger import Ledger
from matrpo.launch.tracking.trackers import make_tracker
from matrpo.runs.run_directory import RunDirectory
from matrpo.runs.scalars import scalars
from matrpo.settings.config import Config, resolve, to_dict
from matrpo.training import InProcessTraining

SETTINGS = {"agents": 2, "topology": "line", "num_envs": 2, "rollout_length": 50, "hidden_sizes": [4], "steps": 300}


def train(run: RunDirectory, start: int, last: int) -> None:
    training = InProcessTraining(run, start)
    training.run(lambda: training.iteration >= last, lambda _: None)


def send(run: RunDirectory) -> None:
    """Send what there is, as `matrpo track` does."""
    ledger = Ledger(run.path / "tracker" / "mlflow.json")
    tracker = make_tracker("mlflow", run, ledger)
    follower = Follower(run, tracker, ledger)
    follower.poll()
    tracker.close(follower.whole)


def curves(client: MlflowClient, run_id: str) -> dict[str, list[tuple[int, float]]]:
    tags = client.get_run(run_id).data.metrics
    return {tag: [(one.step, one.value) for one in client.get_metric_history(run_id, tag)] for tag in tags}


def expected(lines: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for tag, value in scalars({name: line[name] for name in set(line) - {"iteration", "steps", "time"}}).items():
            found.setdefault(tag, []).append((line["steps"], value))
    return found


def test_curves_are_the_metrics_and_go_on_when_a_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = RunDirectory.create(tmp_path / "run", resolve(("test", SETTINGS)), {})
    train(run, 0, 2)
    send(run)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "matrpo"]

    def runs() -> dict[str, Any]:
        return {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}

    first = runs()
    assert {name: one.info.status for name, one in first.items()} == dict.fromkeys(
        ("run", "env", "agent-00", "agent-01"), "KILLED"
    )
    monkeypatch.chdir("/")  # the place of the curves is kept
    run.rewind(1)
    train(run, 1, 3)
    send(run)
    last = runs()
    assert {name: one.info.run_id for name, one in last.items()} == {
        name: one.info.run_id for name, one in first.items()
    }
    whole = last.pop("run")
    assert whole.data.params == {key: str(value) for key, value in to_dict(run.config).items()}
    for process, directory in run.processes().items():
        kept = last.pop(process.slug)
        assert kept.info.status == "FINISHED"
        assert kept.data.tags["mlflow.parentRunId"] == whole.info.run_id
        assert kept.data.params["seed"] == str(Config.seed)
        found, lines = curves(client, kept.info.run_id), directory.read_metrics()
        assert len(lines) == 3
        timed = {tag for tag in found if "seconds" in tag or "SPS" in tag or "steps_per_second" in tag}
        assert {tag: curve for tag, curve in found.items() if tag not in timed} == {
            tag: curve for tag, curve in expected(lines).items() if tag not in timed
        }
        for tag in timed:  # the second iteration's seconds are those of the first time
            assert found[tag][::2] == expected(lines)[tag][::2]
            assert [step for step, _ in found[tag]] == [100, 200, 300]
    assert not last
