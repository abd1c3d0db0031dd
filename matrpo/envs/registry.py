"""The tasks by name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np

from matrpo.config import ConfigError
from matrpo.envs.navigation import NavigationEnv, navigation_spec
from matrpo.envs.treasure import TreasureEnv, treasure_spec
from matrpo.envs.vector_env import VectorEnv
from matrpo.spaces import TaskSpec


@dataclass(frozen=True)
class TaskInfo:
    """A task as `matrpo list tasks` shows it.

    Attributes:
        name: what `--task` takes.
        description: one line.
        default_agents: N if `--agents` is not given.
        fixed: whether the task has exactly that many agents.
    """

    name: str
    description: str
    default_agents: int
    fixed: bool


TASKS: tuple[TaskInfo, ...] = (
    TaskInfo("navigation", "N agents cover N landmarks, only the first is paid for it; batched", 12, False),
    TaskInfo("treasure", "hunters bring treasures to the banks, only the banks are paid for it; batched", 8, False),
    TaskInfo("mpe2/simple_spread_v3", "N agents cover N landmarks, all are paid; PettingZoo", 3, False),
    TaskInfo("mpe2/simple_speaker_listener_v4", "one tells the other where to go; PettingZoo", 2, True),
    TaskInfo("mpe2/simple_reference_v3", "each tells the other where to go; PettingZoo", 2, True),
)
"""Every task, in the order in which to show them."""

_BY_NAME = {info.name: info for info in TASKS}


def resolve_num_agents(task: str, agents: int | None) -> int:
    """The number of agents: `agents` if given, else the task's default.

    Raises:
        ConfigError: the task is unknown, or has another, fixed number of agents.
    """
    info = _find(task)
    if agents is None:
        return info.default_agents
    if info.fixed and agents != info.default_agents:
        raise ConfigError(f"bad value {agents} for 'agents': task {task!r} has exactly {info.default_agents}")
    if agents < 1:
        raise ConfigError(f"bad value {agents} for 'agents': expected at least 1")
    return agents


def task_spec(task: str, num_agents: int | None) -> TaskSpec:
    """The task's agents and spaces.

    Raises:
        ConfigError: as `make_env`.
    """
    num_agents = resolve_num_agents(task, num_agents)
    if task == "navigation":
        return navigation_spec(num_agents)
    if task == "treasure":
        return treasure_spec(num_agents)
    # Not closed: mpe2's close shuts pygame down under every other environment of the process.
    return make_env(task, num_agents, num_envs=1, seed=0).spec


def make_env(task: str, num_agents: int | None, num_envs: int, seed: int) -> VectorEnv:
    """Build `num_envs` environments of a task.

    Args:
        task: a name in `TASKS`.
        num_agents: N, or None for the task's default.
        num_envs: B.
        seed: of everything random in them.

    Raises:
        ConfigError: the task is unknown, or has another, fixed number of agents.
    """
    num_agents = resolve_num_agents(task, num_agents)
    if task == "navigation":
        return NavigationEnv(num_agents, num_envs, seed)
    if task == "treasure":
        return TreasureEnv(num_agents, num_envs, seed)
    from matrpo.envs.pettingzoo import make_mpe2

    options = {} if _BY_NAME[task].fixed else {"N": num_agents}
    return make_mpe2(task, options, num_envs, seed)


def stream_seed(seed: int, stream: int) -> int:
    """The seed of a task's environments for one of a run's streams of episodes; no two streams have one in common.

    Args:
        seed: the run's.
        stream: 0 for the episodes of an undisturbed run.
    """
    return int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]) if stream else seed


def _find(task: str) -> TaskInfo:
    if task in _BY_NAME:
        return _BY_NAME[task]
    close = difflib.get_close_matches(task, _BY_NAME, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}?" if close else "`matrpo list tasks` names them all"
    raise ConfigError(f"unknown task {task!r} for 'task': {hint}")
