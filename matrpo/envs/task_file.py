"""A user's own task, `path/to/file.py:factory`; docs/own-task.md is the guide.

The file is imported once in each process. Its folder is put at the end of the import path, so that it may import what
lies beside it.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from matrpo.config import ConfigError
from matrpo.envs.check import kind_of
from matrpo.envs.family import NOTHING, Family, ForeignTask, in_words
from matrpo.envs.installed import wrap_parallel
from matrpo.envs.vector_env import VectorEnv
from matrpo.spaces import TaskSpec


def _search(name: str) -> ForeignTask:
    path, _, factory = name.rpartition(":")
    if not path:
        raise ConfigError(f"task {name!r}: name the factory too, as in {name}:make")
    absolute = Path(path).resolve()
    return ForeignTask(f"{absolute}:{factory}", partial(_make, absolute, factory))


def _make(path: Path, name: str, num_agents: int | None, num_envs: int, seed: int) -> VectorEnv:
    task = f"{path}:{name}"
    made = _called(task, path, _factory(path, name), num_agents, num_envs, seed)
    if isinstance(made, VectorEnv):
        _check(task, made, num_envs)
        return made
    if callable(made):
        return wrap_parallel(task, made, num_envs, seed)
    expected = "a VectorEnv or a constructor of a PettingZoo ParallelEnv"
    raise ConfigError(f"task {task!r}: its factory returned {kind_of(made)}; expected {expected}")


def _called(
    task: str, path: Path, factory: Callable[..., Any], num_agents: int | None, num_envs: int, seed: int
) -> Any:
    try:
        return factory(num_agents=num_agents, num_envs=num_envs, seed=seed)
    except ConfigError:
        raise
    except Exception as error:
        call = f"factory(num_agents={num_agents}, num_envs={num_envs}, seed={seed})"
        raise ConfigError(f"task {task!r}: {call} raised {in_words(error)}{_line(path, error)}") from error


def _check(task: str, env: VectorEnv, num_envs: int) -> None:
    if not isinstance(getattr(env, "spec", None), TaskSpec):
        raise ConfigError(f"task {task!r}: its VectorEnv has no `spec`; set it to a TaskSpec in __init__")
    if getattr(env, "num_envs", None) != num_envs:
        raise ConfigError(
            f"task {task!r}: its VectorEnv has not `num_envs` = {num_envs}; set what the factory was given"
        )


def _factory(path: Path, name: str) -> Callable[..., Any]:
    found: Callable[..., Any] | None = getattr(_module(path), name, None)
    if not callable(found):
        raise ConfigError(f"task '{path}:{name}': the file has no function {name!r}")
    return found


def _module(path: Path) -> ModuleType:
    name = f"matrpo task {path}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise ConfigError(f"task: there is no file {path}")
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(f"task: importing {path} raised {in_words(error)}{_line(path, error)}") from error
    return module


def _line(path: Path, error: BaseException) -> str:
    """Where in the user's file an exception came from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" (line {lines[-1]})" if lines else ""


FAMILY = Family(
    pattern="path/to/file.py:factory",
    description="a task of your own: docs/own-task.md",
    needs=NOTHING,
    search=_search,
)
