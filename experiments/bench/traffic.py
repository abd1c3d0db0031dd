"""Traffic lights without learning: fixed-time and actuated control, and how fast SUMO is by itself and as a task."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from matrpo import random_streams
from matrpo.envs.counter_rng import episode_seed
from matrpo.envs.registry import check_installed, make_env, task_spec
from matrpo.envs.traffic.episodes import STEP
from matrpo.envs.traffic.simulation import Simulation, Trips
from matrpo.envs.traffic.traffic import network_file
from matrpo.evaluation import mean_interval
from matrpo.experiments.bench.report import Report, Row, Say

Control = Callable[[Simulation], None]


def run(
    task: str, greens: Sequence[int], episodes: int, episode_length: int | None, seed: int, quick: bool, say: Say
) -> Report:
    """Play the episodes with each control that `matrpo eval` plays with a run's policies.

    Args:
        task: of the family traffic.
        greens: seconds of the green phases of fixed-time control, besides those of the network's own program.
        episodes: of each.
        episode_length: steps of an episode; None for the task's own.
        seed: the run's.
        quick: tiny sizes.
        say: told about the progress.

    Raises:
        ConfigError: the task is unknown, or SUMO is not installed.
    """
    check_installed(task)
    steps = episode_length or task_spec(task, None).episode_length or 0
    if quick:
        episodes, steps = 2, 12
    seeds = [episode_seed(random_streams.evaluation(seed), number, 0) for number in range(episodes)]
    controls, speeds = [], []
    with network_file(task) as network:
        for name, control in _controls(greens).items():
            say(f"{episodes} episodes of {steps} steps, {name}")
            began = time.perf_counter()
            trips = [_play(network, control, number, steps) for number in seeds]
            speeds.append(_speed(f"SUMO alone, {name}", steps * episodes, time.perf_counter() - began))
            controls.append({"control": name, **_figures(np.array(trips))})
    say(f"an episode of {steps} steps by random actions")
    speeds.append(_speed("the task, one environment, random actions", steps, _act(task, steps)))
    settings = {"task": task, "episodes": episodes, "episode_length": steps, "seed": seed}
    return Report("traffic", settings, {"seconds of a vehicle, with 95% intervals": controls, "speed": speeds})


def _controls(greens: Sequence[int]) -> dict[str, Control]:
    """What has lights controlled as a name says."""
    fixed: dict[str, Control] = {
        f"fixed-time, {green} s of green": partial(Simulation.fix, green=green) for green in greens
    }
    return {"fixed-time, the network's": lambda _simulation: None, **fixed, "actuated": Simulation.actuate}


def _play(network: Path, control: Control, seed: int, steps: int) -> Trips:
    simulation = Simulation(network)
    simulation.start(seed)
    control(simulation)
    simulation.advance(STEP * steps)
    return simulation.trips()


def _figures(trips: np.ndarray) -> Row:
    """Mean and interval of each of the numbers of `Trips`, given as (episodes, numbers)."""
    row: dict[str, float] = {}
    for name, values in zip(Trips._fields, trips.T, strict=True):
        low, high = mean_interval(values) or (float("nan"), float("nan"))
        row |= {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
    return row


def _act(task: str, steps: int) -> float:
    """Seconds that so many steps of random actions take."""
    env = make_env(task, None, 1, 0)
    generator = np.random.default_rng(0)
    try:
        env.reset()
        began = time.perf_counter()
        for _ in range(steps):
            env.step(np.array([[generator.integers(space.parameters) for space in env.spec.action_spaces]], np.float32))
        return time.perf_counter() - began
    finally:
        env.close()


def _speed(what: str, steps: int, seconds: float) -> Row:
    return {"what": what, "steps_per_second": steps / seconds, "simulated_seconds_per_second": STEP * steps / seconds}
