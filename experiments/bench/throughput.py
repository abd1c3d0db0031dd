"""CPU time and memory of centralised training, against HARL's own code on the same task and batch size."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matrpo.experiments.bench.report import Goal, Report, Row, Say

_TASK = "mpe2/simple_spread_v3"
_AGENTS = 3

_HARL_SECONDS = {"happo": 1.44, "hatrpo": 2.17, "mappo": 1.45}
_HARL_MEMORY = 865.0
_HARL = "HARL, commit d539bad: simple_spread_v2, 20 rollout threads, 4000 samples an iteration; medians of three runs"
"""The setting of the measurements of HARL: CPU seconds per 1000 environment steps, and the peak memory in MiB."""

_WARM_UP = 2
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
        median = _median([_in_own_process(algo, iterations, changes) for _ in range(repeats)])
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
    settings = {"task": _TASK, "agents": _AGENTS, "repeats": repeats, "iterations": iterations, **changes}
    title = "CPU seconds per 1000 environment steps, and memory"
    return Report("throughput", settings | {"warm_up": _WARM_UP, "HARL": _HARL}, {title: rows}, goals)


def _median(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _in_own_process(algo: str, iterations: int, changes: Mapping[str, Any]) -> dict[str, float]:
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, algo, iterations, changes).result()


def _measure(algo: str, iterations: int, changes: Mapping[str, Any]) -> dict[str, float]:
    """CPU seconds per 1000 steps of the update and of all else (sampling, records), and the peak in MiB."""
    os.environ["OMP_NUM_THREADS"] = "1"
    from matrpo.algorithms.shared.algorithm import UpdateReport
    from matrpo.runs.run_directory import RunDirectory
    from matrpo.settings.config import resolve
    from matrpo.training import CentralTraining

    given = {"algo": algo, "task": _TASK, "agents": _AGENTS, **changes}
    config = resolve(("bench", given))
    config = resolve(("bench", {**given, "steps": config.samples * (_WARM_UP + iterations)}))
    updates: list[float] = []
    with tempfile.TemporaryDirectory(prefix="matrpo-bench-") as folder:
        training = CentralTraining(RunDirectory.create(Path(folder) / "run", config, {}))
        learn = training.algorithm.update

        def timed(iteration: int) -> UpdateReport:
            begin = time.process_time()
            report = learn(iteration)
            updates.append(time.process_time() - begin)
            return report

        training.algorithm.update = timed  # type: ignore[method-assign]
        for _ in range(_WARM_UP):
            training.iterate()
        begin = time.process_time()
        for _ in range(iterations):
            training.iterate()
        seconds = time.process_time() - begin
    thousands = config.samples * iterations / 1000
    update = sum(updates[_WARM_UP:])
    return {"rollout": (seconds - update) / thousands, "update": update / thousands, "memory": _peak_mebibytes()}


def _peak_mebibytes() -> float:
    """Peak memory of this process in MiB, without what its parent held when it was started."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024
