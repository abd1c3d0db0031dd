"""MLflow: a run for each process, nested in one of all; in a local database, unless MLFLOW_TRACKING_URI is set."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from matrpo.launch.tracking.ledger import Ledger
from matrpo.launch.tracking.tracker import Point, Tracker
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import to_dict

_EXPERIMENT = "matrpo"
_PARENT = "run"
_BATCH = 1000
"""Most metrics that MLflow takes in a call."""

_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")


class MlflowTracker(Tracker):
    """Curves in MLflow. Their place is that of MLFLOW_TRACKING_URI, or of the run's earlier curves, or MLflow's own.

    Args:
        run: the run directory.
        ledger: keeps place and ids, so that the curves of a resumed run are continued; in another place all is sent
            anew. Settings that were changed on a resume are there as they were at first: MLflow keeps them so.
    """

    def __init__(self, run: RunDirectory, ledger: Ledger) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric = Metric
        store = os.environ.get("MLFLOW_TRACKING_URI") or ledger.store or mlflow.get_tracking_uri()
        if store != ledger.store:
            ledger.begin(store)
        self._client: Any = mlflow.MlflowClient(store)
        self._ledger = ledger
        self._name = run.path.resolve().name
        self._settings = [Param(key, str(value)) for key, value in to_dict(run.config).items()]
        self._open: dict[str, str] = {}

    def add(self, process: ProcessId, points: Sequence[Point]) -> None:
        parent = self._begin(_PARENT, self._name, {})
        curve = self._begin(process.slug, process.slug, {"mlflow.parentRunId": parent})
        metrics = self._metrics(points)
        while batch := list(islice(metrics, _BATCH)):
            self._client.log_batch(curve, metrics=batch)

    def close(self, whole: bool) -> None:
        for curve in self._open.values():
            self._client.set_terminated(curve, "FINISHED" if whole else "KILLED")

    def _metrics(self, points: Sequence[Point]) -> Iterator[Any]:
        for steps, at, values in points:
            for tag, value in values.items():
                yield self._metric(_NOT_IN_NAMES.sub("_", tag), value, int(1000 * at), steps)

    def _begin(self, key: str, name: str, tags: Mapping[str, str]) -> str:
        """The id of a run in MLflow, which is made or goes on."""
        if key in self._open:
            return self._open[key]
        if key in self._ledger.runs:
            self._client.update_run(self._ledger.runs[key], status="RUNNING")
        else:
            made = self._client.create_run(self._experiment(), int(1000 * time.time()), dict(tags), run_name=name)
            self._client.log_batch(made.info.run_id, params=self._settings)
            self._ledger.runs[key] = made.info.run_id
            self._ledger.save()
        self._open[key] = self._ledger.runs[key]
        return self._open[key]

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))
