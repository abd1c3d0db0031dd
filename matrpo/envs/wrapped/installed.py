"""Any PettingZoo parallel environment that is installed, as `pettingzoo/<module>:<name>`."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from matrpo.envs.conformance.check import kind_of
from matrpo.envs.family import NOTHING, Family, ForeignTask
from matrpo.envs.vector_env import VectorEnv
from matrpo.envs.wrapped.pettingzoo import PettingZooEnv
from matrpo.errors import ConfigError, in_words

_PREFIX = "pettingzoo/"
_METHODS = ("reset", "step", "observation_space", "action_space")
"""What makes an environment a parallel one, whatever it inherits from."""


def wrap_parallel(task: str, constructor: Callable[..., Any], num_envs: int, seed: int) -> VectorEnv:
    """`num_envs` environments by a constructor of parallel environments, if it is one.

    Args:
        task: its name.
        constructor: makes one environment; to draw it, it is called with the keyword `render_mode="rgb_array"`.
        num_envs: B.
        seed: of their resets.

    Raises:
        ConfigError: it raises, makes something else, or makes environments that cannot be used.
    """
    return PettingZooEnv(task, partial(_copy, task, constructor), num_envs, seed)


def _copy(task: str, constructor: Callable[..., Any], **options: Any) -> Any:
    try:
        env = constructor(**options)
    except Exception as error:
        raise ConfigError(f"task {task!r}: its constructor raised {in_words(error)}") from error
    in_turn = hasattr(type(env), "agent_iter")
    lacking = [f"{name}()" for name in _METHODS if not callable(getattr(env, name, None))]
    if in_turn or lacking:
        why = "; agents that act in turn (AEC) are not supported" if in_turn else f" without {', '.join(lacking)}"
        raise ConfigError(
            f"task {task!r}: expected a PettingZoo ParallelEnv, its constructor makes {kind_of(env)}{why}"
        )
    if not getattr(env, "possible_agents", None):
        raise ConfigError(f"task {task!r}: the environment has no possible_agents, so nobody knows who could take part")
    return env


def _make(task: str, _num_agents: int | None, num_envs: int, seed: int) -> VectorEnv:
    return wrap_parallel(task, _constructor(task), num_envs, seed)


def _constructor(task: str) -> Callable[..., Any]:
    module, _, name = task.removeprefix(_PREFIX).partition(":")
    if not module or not name:
        raise ConfigError(f"task {task!r}: expected {FAMILY.pattern}, such as pettingzoo.sisl.pursuit_v5:parallel_env")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        found: Callable[..., Any] | None = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        newer = _other_versions(module)
        hint = f"; did you mean {_PREFIX}{newer[-1]}:{name}?" if newer else ""
        raise ConfigError(f"task {task!r}: importing {module} raised {in_words(error)}{hint}") from error
    if not callable(found):
        raise ConfigError(f"task {task!r}: module {module} has no constructor {name!r}")
    return found


def _other_versions(module: str) -> list[str]:
    """The modules of the same package and name but another version, in the order of their versions."""
    package, _, own = module.rpartition(".")
    base, version, _ = own.rpartition("_v")
    if not package or not version:
        return []
    try:
        folders = importlib.import_module(package).__path__
    except Exception:
        return []
    pattern = re.compile(rf"{re.escape(base)}_v(\d+)")
    versions = [found for _, other, _ in pkgutil.iter_modules(folders) if (found := pattern.fullmatch(other))]
    in_order = sorted(versions, key=lambda found: int(found[1]))
    return [f"{package}.{found[0]}" for found in in_order if found[0] != own]


FAMILY = Family(
    pattern=f"{_PREFIX}<module>:<name>",
    description="any PettingZoo parallel environment that is installed; pixels (uint8, 0 to 255) are divided by 255",
    needs=NOTHING,
    search=lambda name: ForeignTask(name, partial(_make, name)),
)
