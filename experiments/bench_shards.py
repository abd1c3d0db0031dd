"""What a second environment server brings: environment steps per second of launched runs with one and with two."""

from __future__ import annotations

import os
import statistics
from typing import Any

from matrpo.experiments.bench_launch import LaunchedRun, metric
from matrpo.experiments.bench_report import Goal, Report, Row, Say

_SERVERS = (1, 2)
_GOAL = 1.5


def run(task: str, repeats: int, iterations: int, quick: bool, say: Say) -> Report:
    """Launch runs with one server and with two in turn; every server steps its environments in one process.

    Args:
        task: a MuJoCo task of two agents.
        repeats: runs of each.
        iterations: measured iterations of a run, after a first one that is not.
        quick: tiny sizes.
        say: told about the progress.
    """
    settings: dict[str, Any] = {"task": task, "topology": "line", "env_workers": 1, "seed": 0, "tensorboard": False}
    settings |= {"num_envs": 4, "rollout_length": 10} if quick else {"num_envs": 128, "rollout_length": 100}
    repeats, iterations = (1, 1) if quick else (repeats, iterations)
    rows: list[Row] = []
    for number in range(repeats):
        speeds = []
        for servers in _SERVERS:
            say(f"repetition {number + 1} of {repeats}: env_servers={servers}")
            speeds.append(_speed({**settings, "env_servers": servers}, iterations))
        rows.append(
            {"repetition": number + 1, "one server": speeds[0], "two": speeds[1], "ratio": speeds[1] / speeds[0]}
        )
    ratio = statistics.median(float(row["ratio"]) for row in rows)
    goal = Goal("rollouts with two environment servers / with one (median)", ratio, _GOAL)
    facts = {**settings, "repeats": repeats, "iterations": iterations, "cores": len(os.sched_getaffinity(0))}
    return Report("shards", facts, {"environment steps per second of rollouts, medians over iterations": rows}, [goal])


def _speed(settings: dict[str, Any], iterations: int) -> float:
    """Environment steps per second within rollouts: the median of all iterations of a run but the first."""
    steps = (iterations + 1) * settings["num_envs"] * settings["rollout_length"]
    with LaunchedRun(2, {**settings, "steps": steps}) as launched:
        launched.wait_for(iterations + 1)
        return statistics.median(metric(launched.environment_metrics()[1:], "rollout_steps_per_second"))
