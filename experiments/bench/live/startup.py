"""Start-up time of all processes of a run, against one bare import of torch, and an agent's own memory."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time

from matrpo.experiments.bench.live.launching import LaunchedRun
from matrpo.experiments.bench.report import Goal, Report, Row, Say


def run(agents: int, repeats: int, quick: bool, say: Say) -> Report:
    """Launch runs and import torch in turn.

    Args:
        agents: N.
        repeats: of each.
        quick: tiny sizes.
        say: told about the progress.
    """
    settings = {"num_envs": 2, "rollout_length": 10, "steps": 40} if quick else {}
    starts: list[Row] = []
    memory: list[Row] = []
    for number in range(repeats):
        say(f"launch and import {number + 1} of {repeats}")
        with LaunchedRun(agents, settings) as launched:
            seconds = launched.wait_until_ready()
            cpu_seconds = launched.cpu_seconds()
            if number == repeats - 1:
                memory.append(_memory("all are ready", launched))
                say("waiting for the first iteration, to measure memory")
                launched.wait_for(1)
                memory.append(_memory("an iteration is over", launched))
                metrics = launched.environment.read_metrics()[0]
        import_seconds, import_cpu_seconds = _import_torch()
        starts.append(
            {
                "repetition": number + 1,
                "ready_seconds": seconds,
                "ready_cpu_seconds": cpu_seconds,
                "import_seconds": import_seconds,
                "import_cpu_seconds": import_cpu_seconds,
                "ratio": seconds / import_seconds,
                "cpu_ratio": cpu_seconds / import_cpu_seconds,
            }
        )
    ready, bare = (
        statistics.median(float(row[name]) for row in starts) for name in ("ready_seconds", "import_seconds")
    )
    goal = Goal(f"{agents} agents and the server ready / one import of torch (medians)", ready / bare, 3.0, False)
    facts = {"agents": agents, "repeats": repeats, "launched": settings}
    facts |= {"seconds_startup_by_the_run_itself": metrics["seconds_startup"]}
    return Report("startup", facts, {"from the launch to the last hello": starts, "memory per agent": memory}, [goal])


def _import_torch() -> tuple[float, float]:
    """Seconds and CPU seconds of a process that imports torch and does nothing else."""
    used, begin = _children_cpu_seconds(), time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - begin, _children_cpu_seconds() - used


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _memory(when: str, launched: LaunchedRun) -> Row:
    """Megabytes that would be free if one agent ended (USS), and its share of all that is mapped (PSS)."""
    infos = [process.memory_full_info() for process in launched.agent_processes()]
    unique = [1e-6 * info.uss for info in infos]
    return {
        "when": when,
        "unique_MB_median": statistics.median(unique),
        "unique_MB_largest": max(unique),
        "proportional_MB_median": statistics.median(1e-6 * info.pss for info in infos),
        "run_unique_MB": sum(1e-6 * process.memory_full_info().uss for process in launched.processes()),
    }
