"""CPU time and memory of centralised training, against HARL's own code on the same task and batch size."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matrpo.experiments.bench.jaxmarl_driver import LAST, peak_mebibytes
from matrpo.experiments.bench.report import Goal, Report, Row, Say

if TYPE_CHECKING:
    from matrpo.algorithms.shared.on_policy import OnPolicy

TASK = "mpe2/simple_spread_v3"
AGENTS = 3

_HARL_SECONDS = {"happo": 1.44, "hatrpo": 2.17, "mappo": 1.45}
_HARL_MEMORY = 865.0
_HARL = "HARL, commit d539bad: simple_spread_v2, 20 rollout threads, 4000 samples an iteration; medians of three runs"
"""The setting of the measurements of HARL: CPU seconds per 1000 environment steps, and the peak memory in MiB."""

WARM_UP = 2
"""The first iterations of a run, which are not measured: what is built lazily is built in them."""
_SHARE = 0.2


def run(repeats: int, iterations: int, quick: bool, say: Say) -> Report:
    """Train with the tuned settings, each run in a process of its own.

    Args:
        repeats: runs of each algorithm.
        iterations: those measured of a run, after a few that are not.
        quick: tiny sizes.
        say: told about the progress.
    """
    changes = {"num_envs": 4, "rollout_length": 25} if quick else {}
    repeats, iterations = (1, 1) if quick else (repeats, iterations)
    rows: list[Row] = []
    goals: list[Goal] = []
    for algo, harl in _HARL_SECONDS.items():
        say(f"{algo}: {repeats} runs of {iterations} iterations")
        given = {"algo": algo, "task": TASK, "agents": AGENTS, **changes}
        median = medians([in_own_process(given, iterations) for _ in range(repeats)])
        seconds = median["rollout"] + median["update"]
        rows.append(
            {
                "algorithm": algo,
                "rollout": median["rollout"],
                "update": median["update"],
                "together": seconds,
                "HARL": harl,
                "times_less": harl / seconds,
                "peak_MiB": median["memory"],
                "HARL_MiB": _HARL_MEMORY,
            }
        )
        goals.append(Goal(f"{algo}: CPU seconds per 1000 steps", seconds, _SHARE * harl, at_least=False))
        goals.append(Goal(f"{algo}: peak MiB", median["memory"], _HARL_MEMORY, at_least=False))
    settings = {"task": TASK, "agents": AGENTS, "repeats": repeats, "iterations": iterations, **changes}
    title = "CPU seconds per 1000 environment steps, and memory"
    return Report("throughput", settings | {"warm_up": WARM_UP, "HARL": _HARL}, {title: rows}, goals)


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over the runs."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def in_own_process(given: Mapping[str, Any], iterations: int) -> dict[str, float]:
    """Train by a centralised algorithm in a new process, on one thread, and measure all but the first iterations.

    Args:
        given: the settings; `steps` follow.
        iterations: those measured, after `WARM_UP` that are not.

    Returns:
        CPU seconds per 1000 steps of the update (`update`) and of all else (`rollout`: sampling, records), wall-clock
        `seconds` of the iterations, peak `memory` in MiB, the number of `parameters`, and of the last ten iterations
        the mean team `return` and `episode_steps`.
    """
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, given, iterations).result()


def _measure(given: Mapping[str, Any], iterations: int) -> dict[str, float]:
    os.environ["OMP_NUM_THREADS"] = "1"
    from matrpo.algorithms.shared.algorithm import UpdateReport
    from matrpo.algorithms.shared.on_policy import OnPolicy
    from matrpo.runs.run_directory import RunDirectory
    from matrpo.settings.config import resolve
    from matrpo.training import CentralTraining

    config = resolve(("bench", given))
    config = resolve(("bench", {**given, "steps": config.samples * (WARM_UP + iterations)}))
    updates: list[float] = []
    with tempfile.TemporaryDirectory(prefix="matrpo-bench-") as folder:
        run = RunDirectory.create(Path(folder) / "run", config, {})
        training = CentralTraining(run)
        assert isinstance(training.algorithm, OnPolicy)
        learn = training.algorithm.update

        def timed(iteration: int) -> UpdateReport:
            begin = time.process_time()
            report = learn(iteration)
            updates.append(time.process_time() - begin)
            return report

        training.algorithm.update = timed  # type: ignore[method-assign]
        for _ in range(WARM_UP):
            training.iterate()
        began, begin = time.perf_counter(), time.process_time()
        for _ in range(iterations):
            training.iterate()
        processor, seconds = time.process_time() - begin, time.perf_counter() - began
        episodes = run.environment_metrics()[-LAST:]
    thousands = config.samples * iterations / 1000
    update = sum(updates[WARM_UP:])
    return {
        "rollout": (processor - update) / thousands,
        "update": update / thousands,
        "seconds": seconds,
        "memory": peak_mebibytes(),
        "parameters": number_of_parameters(training.algorithm),
        "return": _mean(episodes, "team_return_mean"),
        "episode_steps": _mean(episodes, "episode_length_mean"),
    }


def number_of_parameters(algorithm: OnPolicy) -> int:
    """How many parameters its policies and critics have."""
    modules = [learner.policy for learner in algorithm.learners] + list(algorithm.critics)
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _mean(lines: Sequence[Mapping[str, Any]], name: str) -> float:
    """Mean of a metric over the iterations in which an episode ended."""
    return statistics.fmean(line[name] for line in lines if line[name] is not None)
