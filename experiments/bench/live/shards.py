"""Speed-up by a second environment server: environment steps per second of launched runs with one and with two."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from matrpo.envs.workers.cores import usable_cores
from matrpo.experiments.bench.live.launching import LaunchedRun, metric
from matrpo.experiments.bench.report import Goal, Report, Row, Say

_SERVERS = (1, 2)
_GOAL = 1.5


def run(tasks: Sequence[str], repeats: int, iterations: int, quick: bool, say: Say) -> Report:
    """Launch runs with one server and with two in turn; every server steps its environments in one process.

    Args:
        tasks: MuJoCo tasks of two agents. The dearer a robot is to step, the less of the time goes to messages and
            policies, whose share grows with the servers.
        repeats: runs of each.
        iterations: measured iterations of a run, after a first one that is not.
        quick: tiny sizes.
        say: told about the progress.
    """
    settings: dict[str, Any] = {"topology": "line", "env_workers": 1, "seed": 0, "tensorboard": False}
    settings |= {"num_envs": 4, "rollout_length": 10} if quick else {"num_envs": 128, "rollout_length": 100}
    repeats, iterations = (1, 1) if quick else (repeats, iterations)
    rows: list[Row] = []
    goals = []
    for task in tasks:
        ratios = []
        for number in range(repeats):
            speeds = []
            for servers in _SERVERS:
                say(f"{task}, repetition {number + 1} of {repeats}: env_servers={servers}")
                speeds.append(_speed({**settings, "task": task, "env_servers": servers}, iterations))
            ratios.append(speeds[1] / speeds[0])
            rows.append({"task": task, "one server": speeds[0], "two": speeds[1], "ratio": ratios[-1]})
        what = f"rollouts of {task} with two environment servers / with one (median)"
        goals.append(Goal(what, statistics.median(ratios), _GOAL))
    facts = {**settings, "repeats": repeats, "iterations": iterations, "cores": usable_cores()}
    return Report("shards", facts, {"environment steps per second of rollouts, medians over iterations": rows}, goals)


def _speed(settings: dict[str, Any], iterations: int) -> float:
    """Environment steps per second within rollouts: the median of all iterations of a run but the first."""
    steps = (iterations + 1) * settings["num_envs"] * settings["rollout_length"]
    with LaunchedRun(2, {**settings, "steps": steps}) as launched:
        launched.wait_for(iterations + 1)
        return statistics.median(metric(launched.environment_metrics()[1:], "rollout_steps_per_second"))
