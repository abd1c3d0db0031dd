"""The record of a finished run: one small file, from which all curves and tables are made.

A run whose record is there is done, wherever its run directory is, and whichever machine made it: records of several
machines that are copied into one folder are one experiment.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from matrpo.errors import ConfigError
from matrpo.experiments.runs.experiment import PlannedRun
from matrpo.launch.commands.versions import versions
from matrpo.runs.run_directory import RunDirectory
from matrpo.runs.storage import write_crash_safely
from matrpo.settings.config import Config, resolve_saved, to_dict

_TAIL = 5
"""Iterations at a run's end whose diagnostics are shown."""

_TAIL_STEPS = 20_000
"""Environment steps at a run's end whose episodes' mean return is its training return."""

_UPDATE_SECONDS = ("seconds_update", "seconds_prepare", "seconds_consensus", "seconds_finish")
"""Metrics that sum to an iteration's update time: the first of central training, the others of an agent's process."""

_BOOKKEEPING = {"checkpoint_every", "checkpoints_kept", "tensorboard", "torch_threads", "tracker"}
"""Settings that change no result."""


@dataclass(frozen=True)
class Record:
    """The settings, evaluation, learning curve and diagnostics of a finished run.

    Attributes:
        settings: every one, as it was resolved.
        faults: the fault script; None without.
        versions: of the packages that it was recorded with.
        evaluation: what `matrpo eval --json` printed.
        steps, returns: the learning curve: environment steps, and the mean team return of the episodes that ended in
            the iteration before; iterations in which none did are left out.
        training_return: mean team return of the episodes that ended in the last 20,000 steps; None if none did.
        diagnostics: how it learned and what it cost; None for what was not measured.
    """

    settings: dict[str, Any]
    faults: str | None
    versions: dict[str, str]
    evaluation: dict[str, Any]
    steps: list[int]
    returns: list[float]
    training_return: float | None
    diagnostics: dict[str, float | None]


def is_done(run: PlannedRun) -> bool:
    """Whether a run is finished, evaluated and recorded."""
    return run.record_path.is_file()


def save_record(run: PlannedRun, evaluation: Mapping[str, Any]) -> None:
    """Write the record of a finished run.

    Args:
        run: what was run.
        evaluation: its outcome in fresh episodes.
    """
    directory = RunDirectory.open(run.path)
    server = directory.environment_metrics()
    ended = [line for line in server if line.get("team_return_mean") is not None]
    record = Record(
        to_dict(run.config),
        run.faults,
        versions(),
        dict(evaluation),
        [line["steps"] for line in ended],
        [round(line["team_return_mean"], 4) for line in ended],
        _training_return(server),
        _diagnostics(directory),
    )
    run.record_path.parent.mkdir(parents=True, exist_ok=True)
    write_crash_safely(run.record_path, json.dumps(dataclasses.asdict(record)).encode())


def read_record(run: PlannedRun) -> Record:
    """Read the record of a finished run.

    Raises:
        ConfigError: the file is damaged, or of a run with other settings or of another evaluation.
    """
    path = run.record_path
    try:
        record = Record(**json.loads(path.read_text()))
        settings = resolve_saved(str(path), record.settings)
        episodes = record.evaluation["episodes"]
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{path} is not the record of a run: remove it, and the run is made again") from None
    if changed := _difference(settings, run.config):
        raise ConfigError(f"{path} is of a run with {changed}: move it away, or choose another --out")
    if (record.faults, episodes) != (run.faults, run.episodes):
        raise ConfigError(
            f"{path} is of faults {record.faults} and {episodes} episodes, not of {run.faults} and {run.episodes}: "
            "move it away, or choose another --out"
        )
    return record


def _difference(recorded: Config, planned: Config) -> str:
    """The first setting in which two runs differ, in words; empty if their results are the same."""
    theirs, ours = to_dict(recorded), to_dict(planned)
    keys = (key for key in ours if key not in _BOOKKEEPING and theirs[key] != ours[key])
    return next((f"{key} {theirs[key]}, not {ours[key]}" for key in keys), "")


def _training_return(server: Sequence[Mapping[str, Any]]) -> float | None:
    last = [line for line in server if line["steps"] > server[-1]["steps"] - _TAIL_STEPS and line["episodes"]]
    episodes = sum(line["episodes"] for line in last)
    return math.fsum(line["team_return_mean"] * line["episodes"] for line in last) / episodes if last else None


def _diagnostics(directory: RunDirectory) -> dict[str, float | None]:
    """The diagnostics of one run that `tables.diagnostics_table` shows."""
    learners = [files.read_metrics() for process, files in directory.processes().items() if not process.is_server]
    everything = [line for lines in learners for line in lines]
    server = directory.environment_metrics()
    times = np.array([line["time"] for line in server])
    return {
        "KL": _tail_mean(learners, "kl"),
        "residual": _tail_mean(learners, "consensus_residual"),
        "Fisher products": _tail_mean(learners, "fisher_products"),
        "explained variance": _tail_mean(learners, "explained_variance"),
        "joint TV": _tail_mean(learners, "joint_total_variation_mean"),
        "wall s": _median(np.diff(times).tolist()),
        "rollout s": _median_of(server, "seconds_rollout"),
        "critic s": _median_of(everything, "seconds_prepare"),
        "consensus s": _median_of(everything, "seconds_consensus"),
        "waiting s": _median_of(everything, "seconds_waiting"),
        "update s": _median([sum(line.get(key, 0.0) for key in _UPDATE_SECONDS) for line in learners[0]]),
        "MB sent": _total(everything, "bytes_sent", 1e-6),
        "resends": _total(everything, "resends"),
        "skipped": _total(everything, "skips"),
        "given up": _total(everything, "give_ups"),
    }


def _tail_mean(learners: Sequence[Sequence[Mapping[str, Any]]], key: str) -> float | None:
    values = [line[key] for lines in learners for line in lines[-_TAIL:] if line.get(key) is not None]
    return float(np.mean(values)) if values else None


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _median_of(lines: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return _median([line[key] for line in lines if key in line])


def _total(lines: Sequence[Mapping[str, Any]], key: str, unit: float = 1.0) -> float | None:
    values = [line[key] for line in lines if key in line]
    return unit * sum(values) if values else None
