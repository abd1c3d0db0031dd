"""Speed of batched particle tasks against `mpe2` and `vmas` under random actions, and the cost of one more agent."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from matrpo.envs.particle.collect_treasure import CollectTreasureEnv
from matrpo.envs.particle.navigation import NavigationEnv
from matrpo.envs.particle.particle_env import ParticleEnv
from matrpo.envs.particle.simple_reference import SimpleReferenceEnv
from matrpo.envs.particle.simple_speaker_listener import SimpleSpeakerListenerEnv
from matrpo.envs.particle.simple_spread import SimpleSpreadEnv
from matrpo.envs.particle.treasure import TreasureEnv
from matrpo.envs.particle.treasure_hunt import num_banks
from matrpo.errors import ConfigError
from matrpo.experiments.bench.report import Goal, Report, Row, Say
from matrpo.spaces import Discrete

_SEED = 0
_REPEATS = 5
_DRAWS = 25
_NO_PEER = "not in vmas"

Work = Callable[[], int]
"""Takes a number of environment steps and returns it."""


@dataclass(frozen=True)
class Task:
    """A task, and the environments of other libraries that it is compared with.

    Attributes:
        name: as the table shows it.
        make: builds it, given the number of agents and of environments.
        mpe2: the module of `mpe2` with the same world.
        vmas: the scenario of vmas with the same world, if there is one.
        fixed: the number of agents, if it has only one.
        target: how many times faster than mpe2 it should be.
    """

    name: str
    make: Callable[[int, int], ParticleEnv]
    mpe2: str
    vmas: str | None
    fixed: int | None = None
    target: float | None = None


TASKS = (
    Task("navigation", lambda n, b: NavigationEnv(n, b, _SEED), "simple_spread_v3", "simple_spread", target=100.0),
    Task("treasure", lambda n, b: TreasureEnv(n, b, _SEED), "collect_treasure_v1", None, target=150.0),
    Task("simple_spread", lambda n, b: SimpleSpreadEnv(n, b, _SEED), "simple_spread_v3", "simple_spread"),
    Task("collect_treasure", lambda n, b: CollectTreasureEnv(n, b, _SEED), "collect_treasure_v1", None),
    Task(
        "simple_reference",
        lambda _, b: SimpleReferenceEnv(b, _SEED),
        "simple_reference_v3",
        "simple_reference",
        fixed=2,
    ),
    Task(
        "simple_speaker_listener",
        lambda _, b: SimpleSpeakerListenerEnv(b, _SEED),
        "simple_speaker_listener_v4",
        "simple_speaker_listener",
        fixed=2,
    ),
)
"""Every batched particle task."""


def run(quick: bool, say: Say) -> Report:
    """Measure every task and its counterparts in other libraries, in turn within each comparison.

    Args:
        quick: tiny sizes.
        say: told about the progress.

    Raises:
        ConfigError: vmas is not installed.
    """
    vmas = _import_vmas()
    num_envs, steps, peer_steps = (5, 3, 3) if quick else (100, 200, 100)
    batches = (4, 8) if quick else (64, 512)
    say(f"against mpe2, {num_envs} environments")
    beside_mpe2, mpe2_goals = _against_mpe2(num_envs, steps, peer_steps)
    say(f"against vmas, {' and '.join(map(str, batches))} environments")
    beside_vmas, vmas_goals = _against_vmas(vmas, batches, steps, peer_steps)
    say("by the number of agents")
    by_agents, agent_goals = _by_agents(num_envs, steps)
    settings: dict[str, Any] = {"num_envs": num_envs, "steps": steps, "peer_steps": peer_steps, "repeats": _REPEATS}
    settings |= {"actions": "random, discrete", "vmas": importlib.metadata.version("vmas")}
    tables = {"against mpe2": beside_mpe2, "against vmas": beside_vmas, "cost of an agent": by_agents}
    return Report("envs", settings, tables, [*mpe2_goals, *vmas_goals, *agent_goals])


def _against_mpe2(num_envs: int, steps: int, peer_steps: int) -> tuple[list[Row], list[Goal]]:
    rows: list[Row] = []
    goals = []
    for task in TASKS:
        sizes = (task.fixed,) if task.fixed else ((8, 12) if task.mpe2 == "collect_treasure_v1" else (3, 12))
        for num_agents in sizes:
            work = [_batch(task, num_agents, num_envs, steps), _mpe2(task, num_agents, peer_steps)]
            (ours, own_speed), (theirs, peer_speed) = _measure(work)
            rows.append(
                {
                    "task": task.name,
                    "agents": num_agents,
                    "steps_per_second": own_speed,
                    "mpe2_steps_per_second": peer_speed,
                    "CPU_s_per_1000_steps": ours,
                    "mpe2_CPU_s_per_1000_steps": theirs,
                    "ratio": theirs / ours,
                }
            )
            if task.target:
                goals.append(Goal(f"{task.name} N={num_agents}: speed / mpe2", theirs / ours, task.target))
    return rows, goals


def _against_vmas(vmas: Any, batches: Sequence[int], steps: int, peer_steps: int) -> tuple[list[Row], list[Goal]]:
    rows: list[Row] = []
    goals = []
    for task in TASKS:
        for num_envs, limit in zip(batches, (1.0, 1 / 1.5), strict=True):
            num_agents = task.fixed or (3 if task.vmas else 8)
            work = [_batch(task, num_agents, num_envs, steps)]
            if task.vmas:
                work.append(_vmas(vmas, task, num_agents, num_envs, peer_steps))
            measured = _measure(work)
            row: dict[str, str | int | float] = {
                "task": task.name,
                "agents": num_agents,
                "environments": num_envs,
                "CPU_s_per_1000_steps": measured[0][0],
                "vmas_CPU_s_per_1000_steps": _NO_PEER,
                "ratio": _NO_PEER,
            }
            if task.vmas:
                ratio = measured[1][0] / measured[0][0]
                row |= {"vmas_CPU_s_per_1000_steps": measured[1][0], "ratio": ratio}
                goals.append(Goal(f"{task.name} B={num_envs}: speed / vmas", ratio, limit))
            rows.append(row)
    return rows, goals


def _by_agents(num_envs: int, steps: int) -> tuple[list[Row], list[Goal]]:
    rows: list[Row] = []
    goals = []
    for task in TASKS:
        if task.fixed:
            continue
        (few, _), (many, _) = _measure([_batch(task, n, num_envs, steps) for n in (3, 24)])
        # CPU seconds per 1000 steps of N agents to nanoseconds per step of one.
        few_ns, many_ns = few / 3 * 1e6, many / 24 * 1e6
        rows.append({"task": task.name, "ns_at_N=3": few_ns, "ns_at_N=24": many_ns, "ratio": many_ns / few_ns})
        goals.append(Goal(f"{task.name}: cost of an agent's step, N=24 / N=3", many_ns / few_ns, 3.0, at_least=False))
    return rows, goals


def _measure(work: Sequence[Work]) -> list[tuple[float, float]]:
    """Medians of each: CPU seconds per 1000 environment steps, and environment steps per second of wall clock."""
    figures = np.array([[_time(each) for each in work] for _ in range(_REPEATS)])
    return [(float(cpu), float(speed)) for cpu, speed in np.median(figures, axis=0)]


def _time(work: Work) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    steps = work()
    return (time.process_time() - cpu) * 1000 / steps, steps / (time.perf_counter() - wall)


def batch_work(env: Any, actions: Sequence[Any] | np.ndarray, steps: int, num_envs: int) -> Work:
    """The work of stepping a batch of environments."""

    def work() -> int:
        for t in range(steps):
            env.step(actions[t % len(actions)])
        return steps * num_envs

    return work


def mpe2_work(env: Any, actions: Sequence[dict[str, int]], steps: int) -> Work:
    """The work of stepping one of `mpe2`'s own environments."""

    def work() -> int:
        for t in range(steps):
            if not env.agents:
                env.reset()
            env.step(actions[t % len(actions)])
        return steps

    return work


def _batch(task: Task, num_agents: int, num_envs: int, steps: int) -> Work:
    env = task.make(num_agents, num_envs)
    draws = np.random.default_rng(_SEED)
    sizes = [space.n for space in env.spec.action_spaces if isinstance(space, Discrete)]
    actions = draws.integers(0, sizes, (_DRAWS, num_envs, len(sizes))).astype(np.float32)
    env.reset()
    return batch_work(env, actions, steps, num_envs)


def _mpe2(task: Task, num_agents: int, steps: int) -> Work:
    module = importlib.import_module(f"mpe2.{task.mpe2}")
    options: dict[str, int] = {}
    if task.mpe2 == "simple_spread_v3":
        options = {"N": num_agents}
    if task.mpe2 == "collect_treasure_v1":
        deposits = num_banks(num_agents)
        collectors = num_agents - deposits
        options = {"num_collectors": collectors, "num_deposits": deposits, "num_treasures": collectors}
    length = task.make(num_agents, 1).spec.episode_length
    env = module.parallel_env(max_cycles=length, **options)
    env.reset(seed=_SEED)
    for agent in env.possible_agents:
        env.action_space(agent).seed(_SEED)
    actions = [{a: int(env.action_space(a).sample()) for a in env.possible_agents} for _ in range(_DRAWS)]
    return mpe2_work(env, actions, steps)


def _vmas(vmas: Any, task: Task, num_agents: int, num_envs: int, steps: int) -> Work:
    options = {} if task.fixed else {"n_agents": num_agents}
    env = vmas.make_env(task.vmas, num_envs=num_envs, device="cpu", continuous_actions=False, seed=_SEED, **options)
    actions = [[env.get_random_action(agent) for agent in env.agents] for _ in range(_DRAWS)]
    env.reset()
    return batch_work(env, actions, steps, num_envs)


def _import_vmas() -> Any:
    """Import vmas, on one thread and without the notices of the old gym that it imports."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            import vmas
    except ImportError as error:
        raise ConfigError("bench envs measures against vmas: pip install 'matrpo[bench]'") from error
    import torch

    torch.set_num_threads(1)
    return vmas
