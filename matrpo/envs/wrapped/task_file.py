"""A user's own task, `path/to/file.py:factory`; docs/own-task.md is the guide."""

from __future__ import annotations

from functools import partial

from matrpo.envs.conformance.check import kind_of
from matrpo.envs.family import NOTHING, Family, ForeignTask
from matrpo.envs.vector_env import VectorEnv
from matrpo.envs.wrapped.installed import wrap_parallel
from matrpo.errors import ConfigError
from matrpo.settings.user_file import UserFile
from matrpo.spaces import TaskSpec


def _search(name: str) -> ForeignTask:
    file = UserFile.parse("task", name, "factory", "make")
    return ForeignTask(str(file), partial(_make, file))


def _make(file: UserFile, num_agents: int | None, num_envs: int, seed: int) -> VectorEnv:
    factory, task = file.load("function"), str(file)
    with file.blamed(f"factory(num_agents={num_agents}, num_envs={num_envs}, seed={seed})"):
        made = factory(num_agents=num_agents, num_envs=num_envs, seed=seed)
    if isinstance(made, VectorEnv):
        _check(task, made, num_envs)
        return made
    if callable(made):
        return wrap_parallel(task, made, num_envs, seed)
    expected = "a VectorEnv or a constructor of a PettingZoo ParallelEnv"
    raise ConfigError(f"task {task!r}: its factory returned {kind_of(made)}; expected {expected}")


def _check(task: str, env: VectorEnv, num_envs: int) -> None:
    if not isinstance(getattr(env, "spec", None), TaskSpec):
        raise ConfigError(f"task {task!r}: its VectorEnv has no `spec`; set it to a TaskSpec in __init__")
    if getattr(env, "num_envs", None) != num_envs:
        raise ConfigError(
            f"task {task!r}: its VectorEnv has not `num_envs` = {num_envs}; set what the factory was given"
        )


FAMILY = Family(
    pattern="path/to/file.py:factory",
    description="a task of your own: docs/own-task.md; pixels of a PettingZoo environment are divided by 255",
    needs=NOTHING,
    search=_search,
)
