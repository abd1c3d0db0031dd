"""The registry of tasks: finds a task by name, and builds its environments."""

from __future__ import annotations

import re
from importlib import import_module

from matrpo import random_streams
from matrpo.envs.conformance.guarded import GuardedEnv
from matrpo.envs.family import Family, ForeignTask, Task
from matrpo.envs.vector_env import VectorEnv
from matrpo.envs.workers.cores import usable_cores
from matrpo.envs.workers.worker_env import WorkerEnv
from matrpo.errors import ConfigError, closest
from matrpo.spaces import TaskSpec

FILE = "file"
"""Key of the family of the user's own tasks, whose names are paths."""

_FAMILIES = {
    "navigation": "matrpo.envs.particle.navigation",
    "treasure": "matrpo.envs.particle.treasure",
    "game": "matrpo.envs.games",
    "mpe2": "matrpo.envs.wrapped.mpe2",
    "vmas": "matrpo.envs.vmas.family",
    "mamujoco": "matrpo.envs.mujoco.mamujoco",
    "smax": "matrpo.envs.starcraft.smax",
    "smac": "matrpo.envs.starcraft.smac",
    "smacv2": "matrpo.envs.starcraft.smacv2",
    "football": "matrpo.envs.football.family",
    "traffic": "matrpo.envs.traffic.traffic",
    "pettingzoo": "matrpo.envs.wrapped.installed",
    FILE: "matrpo.envs.wrapped.task_file",
}
"""The first word of a task's name and the module whose `FAMILY` has it, in the order in which to show them."""

_NAMED_ALIKE = {"smac": ("smac", "smacv2")}
"""Families whose tasks' names begin with the same word."""


def families() -> dict[str, Family]:
    """Every family by the first word of its tasks' names."""
    return {key: _family(key) for key in _FAMILIES}


def canonical_name(task: str) -> str:
    """The canonical name of a task: with its version, and of a file its absolute path.

    Raises:
        ConfigError: there is no such task.
    """
    return _find(task)[1].name


def resolve_num_agents(task: str, agents: int | None) -> int:
    """The number of agents: `agents` if given, else the task's default.

    Raises:
        ConfigError: the task is unknown, or cannot have so many.
    """
    return task_spec(task, agents).num_agents


def task_spec(task: str, num_agents: int | None) -> TaskSpec:
    """The task's agents and spaces.

    Raises:
        ConfigError: the task is unknown, or cannot have so many agents.
    """
    return _find(task)[1].spec(num_agents)


def check_installed(task: str) -> None:
    """Check that what a task needs is installed on this machine.

    Raises:
        ConfigError: it is not, or the task is unknown.
    """
    family, found = _find(task)
    if problem := family.needs.problem():
        raise ConfigError(f"task {found.name!r}: {problem}")


def most_at_once(task: str) -> int | None:
    """Number of its environments that this machine can step at once: as many as cores if each is a process, else any.

    Raises:
        ConfigError: the task is unknown.
    """
    return usable_cores() if _find(task)[1].own_process else None


def make_env(
    task: str,
    num_agents: int | None,
    num_envs: int,
    seed: int,
    first: int | None = None,
    workers: int | None = None,
    episode_length: int | None = None,
) -> VectorEnv:
    """Build `num_envs` environments of a task.

    Args:
        task: its name.
        num_agents: N, or None for the task's default.
        num_envs: B.
        seed: of everything random in them.
        first: if they are a part of a larger batch, the number of their first one in it: their episodes are the same
            as in the whole.
        workers: most processes that they are stepped in, where they are stepped in turn; None leaves it to the task.
        episode_length: steps after which an episode is cut off; None leaves that to the task.

    Raises:
        ConfigError: the task is unknown, cannot have so many agents, be a part of a batch or end its episodes so, or
            needs what is not installed.
    """
    check_installed(task)
    found = _find(task)[1]
    env: VectorEnv
    if workers is not None and found.in_turn:
        env = WorkerEnv(found.spec(num_agents), num_envs, seed, workers)
    else:
        foreign = isinstance(found, ForeignTask)
        if foreign:
            random_streams.seed_globals(seed, first or 0, built=False)
        env = found.make(num_agents, num_envs, seed)
        if foreign or not env.trusted:
            env = GuardedEnv(env, found.name, seed)
    if first is not None:
        env.number_from(first)
    if workers is not None:
        env.limit_workers(workers)
    if episode_length is not None:
        env.limit_episodes(episode_length)
    return env


def _find(name: str) -> tuple[Family, Task]:
    path = name.rpartition(":")[0] or name
    key = FILE if path.endswith(".py") else re.split(r"\W", name)[0]
    for family in map(_family, _NAMED_ALIKE.get(key, {key} & set(_FAMILIES))):
        if task := family.find(name):
            return family, task
    names = [task.name for family in families().values() for task in family.tasks]
    close = closest(name, names, cutoff=0.55)
    hint = f"did you mean {close!r}?" if close else "`matrpo list tasks` names them all"
    raise ConfigError(f"unknown task {name!r} for 'task': {hint}")


def _family(key: str) -> Family:
    family: Family = import_module(_FAMILIES[key]).FAMILY
    return family
