"""Weights & Biases: a run for each process, in one group; in files of the run directory, unless WANDB_MODE is set."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from typing import Any, Literal, cast

from matrpo.launch.tracking.ledger import Ledger
from matrpo.launch.tracking.tracker import Point, Tracker
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import to_dict

_INTERRUPTED = 130


class WandbTracker(Tracker):
    """Curves in Weights & Biases. Where, is said by its environment variables; without WANDB_MODE nothing is sent.

    Args:
        run: the run directory.
        ledger: keeps the ids, so that the curves of a resumed run are continued.
    """

    def __init__(self, run: RunDirectory, ledger: Ledger) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # wandb 0.31 reports even if its mode is offline
        import wandb

        self._wandb = wandb
        self._run = run
        self._ledger = ledger
        self._curves: dict[ProcessId, Any] = {}

    def add(self, process: ProcessId, points: Sequence[Point]) -> None:
        if process not in self._curves:
            self._curves[process] = self._begin(process)
        for point in points:
            self._curves[process].log(point.values, step=point.steps, commit=True)

    def close(self, whole: bool) -> None:
        for curve in self._curves.values():
            curve.finish(exit_code=0 if whole else _INTERRUPTED)

    def _begin(self, process: ProcessId) -> Any:
        whole = self._ledger.runs.setdefault("run", secrets.token_hex(4))
        own = self._ledger.runs.setdefault(process.slug, f"{whole}-{process.slug}")
        self._ledger.save()
        return self._wandb.init(
            id=own,
            resume="allow",
            reinit="create_new",  # several at a time
            mode=cast(Literal["offline"], os.environ.get("WANDB_MODE", "offline")),
            dir=os.environ.get("WANDB_DIR", self._ledger.path.parent),
            project=os.environ.get("WANDB_PROJECT", "matrpo"),
            group=self._run.path.resolve().name,
            job_type=process.role.name.lower(),
            name=process.slug,
            config=to_dict(self._run.config),
            allow_val_change=True,
            # This process's output and load are not the run's.
            settings=self._wandb.Settings(
                console="off", quiet=True, x_disable_stats=True, save_code=False, disable_git=True
            ),
        )
