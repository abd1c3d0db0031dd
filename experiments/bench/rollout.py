"""Environment steps per second: the batched navigation task, and a run of many processes, against bare `mpe2`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from mpe2 import simple_spread_v3

from matrpo.envs.particle.navigation import EPISODE_LENGTH
from matrpo.envs.registry import make_env
from matrpo.experiments.bench.envs import Work, batch_work, mpe2_work
from matrpo.experiments.bench.live.launching import LaunchedRun, metric
from matrpo.experiments.bench.report import Goal, Report, Row, Say

_REPEATS = 5
_DRAWS = 64
_SEED = 0


def run(agents: Sequence[int], launched_agents: int, quick: bool, say: Say) -> Report:
    """Measure stepping in one process for each N of `agents`, and the rollouts of one launched run.

    Args:
        agents: the numbers of agents N.
        launched_agents: N of the launched run.
        quick: tiny sizes.
        say: told about the progress.
    """
    num_envs, steps, peer_steps = (10, 20, 20) if quick else (100, 500, 500)
    launched = {"num_envs": num_envs, "rollout_length": 10 if quick else 100, "seed": _SEED, "tensorboard": False}
    iterations = 2 if quick else 5
    stepping: list[Row] = []
    goals: list[Goal] = []
    peers: dict[int, float] = {}
    for num_agents in sorted({*agents, launched_agents}):
        say(f"N={num_agents}: stepping in one process")
        row = _measure_stepping(num_agents, num_envs, steps, peer_steps)
        stepping.append(row)
        peers[num_agents] = float(row["mpe2_steps_per_cpu_second"])
        if num_agents in agents:
            goals.append(Goal(f"N={num_agents}: navigation stepping / mpe2", float(row["ratio"]), 100.0))
    say(f"N={launched_agents}: {iterations} iterations of a launched run")
    speeds = _launched_speeds(launched_agents, launched, iterations)
    ratio = statistics.median(speeds) / peers[launched_agents]
    goals.append(Goal(f"N={launched_agents}: rollout of many processes / mpe2 stepping alone", ratio, 10.0))
    whole: Row = {
        "agents": launched_agents,
        "processes": launched_agents + 1,
        "rollout_steps_per_second": statistics.median(speeds),
        "slowest_iteration": min(speeds),
        "mpe2_steps_per_cpu_second": peers[launched_agents],
        "ratio": ratio,
    }
    settings: dict[str, Any] = {"num_envs": num_envs, "steps": steps, "mpe2_steps": peer_steps, "repeats": _REPEATS}
    settings |= {"mpe2_environment": "simple_spread_v3", "launched": {**launched, "iterations": iterations}}
    tables = {"random actions, one process": stepping, "policies and all, one process per agent": [whole]}
    return Report("rollout", settings, tables, goals)


def _measure_stepping(num_agents: int, num_envs: int, steps: int, peer_steps: int) -> Row:
    """Median environment steps per CPU second of both, measured in turn."""
    ours, peer = _navigation(num_agents, num_envs, steps), _mpe2(num_agents, peer_steps)
    seconds = np.array([[_cpu_seconds(ours), _cpu_seconds(peer)] for _ in range(_REPEATS)])
    own_time, peer_time = np.median(seconds, axis=0)
    own_speed, peer_speed = num_envs * steps / own_time, peer_steps / peer_time
    return {
        "agents": num_agents,
        "environments": num_envs,
        "navigation_steps_per_cpu_second": float(own_speed),
        "mpe2_steps_per_cpu_second": float(peer_speed),
        "ratio": float(own_speed / peer_speed),
    }


def _navigation(num_agents: int, num_envs: int, steps: int) -> Work:
    env = make_env("navigation", num_agents, num_envs, _SEED)
    shape = (_DRAWS, num_envs, num_agents)
    actions = np.random.default_rng(_SEED).integers(0, 5, shape).astype(np.float32)
    env.reset()
    return batch_work(env, actions, steps, num_envs)


def _mpe2(num_agents: int, steps: int) -> Work:
    env = simple_spread_v3.parallel_env(N=num_agents, max_cycles=EPISODE_LENGTH)
    draws = np.random.default_rng(_SEED).integers(0, 5, (_DRAWS, num_agents))
    env.reset(seed=_SEED)
    actions = [dict(zip(env.agents, map(int, draw), strict=True)) for draw in draws]
    return mpe2_work(env, actions, steps)


def _launched_speeds(num_agents: int, settings: dict[str, int | bool], iterations: int) -> list[float]:
    """Environment steps per second (wall clock) within each rollout but the first."""
    samples = settings["num_envs"] * settings["rollout_length"]
    with LaunchedRun(num_agents, {**settings, "steps": iterations * samples}) as launched:
        launched.wait_for(iterations)
        return metric(launched.environment.read_metrics()[1:], "rollout_steps_per_second")


def _cpu_seconds(work: Work) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin
