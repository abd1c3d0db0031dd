"""What an algorithm says that it reads is what it reads, and whatever else is set changes nothing."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matrpo.build import build_algorithm
from matrpo.envs.registry import make_env
from matrpo.errors import ConfigError
from matrpo.runs.run_config import run_config
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings import algorithm_names
from matrpo.settings.algorithm_names import ALGORITHMS
from matrpo.settings.config import FIELDS, Config, resolve
from matrpo.training import make_training

LAUNCH = Path(__file__).parent.parent / "launch"
TINY = {
    "num_envs": 4,
    "rollout_length": 10,
    "chunk_length": 5,
    "steps": 80,
    "hidden_sizes": [4],
    "warmup_steps": 40,
    "updates_per_step": 0.2,
    "batch_size": 8,
}
DISCRETE = {"task": "mpe2/simple_spread_v3", "agents": 3}
CONTINUOUS = {"task": "mpe2/simple_spread_v3-continuous", "agents": 3}
OF_PROCESSES = {"on_agent_loss", "agent_deadline", "transport", "port", "insecure", "tracker"}
"""Settings that only the launcher and the processes of a run read."""

MAY_BE_REFUSED = {"share_parameters", "recurrent_layers", "state_type", "clip_scaling"}
"""Settings that algorithms look at to say that they cannot do so."""


def kinds_of_runs(algo: str) -> Iterator[dict[str, Any]]:
    """Settings with which an algorithm reads all that it ever does."""
    if algo not in ("had3qn", "qmix"):
        yield CONTINUOUS
    if algo not in ("haddpg", "hatd3", "maddpg", "matd3"):
        yield DISCRETE
    if "recurrent_layers" in read_by(algo):
        yield DISCRETE | {"recurrent_layers": 1}


def read_by(algo: str) -> frozenset[str]:
    found: frozenset[str] = ALGORITHMS[algo].load().settings_read
    return found


def train(path: Path, algo: str, **settings: Any) -> RunDirectory:
    run = RunDirectory.create(path, resolve(("test", {**TINY, **settings, "algo": algo})), {})
    training = make_training(run)
    training.run(lambda: False, lambda _: None)
    training.save()
    return run


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The settings that are read from here on, but for what reads all of them alike."""
    names: set[str] = set()

    def get(config: Config, name: str) -> Any:
        caller = sys._getframe(1)
        if name in FIELDS and caller.f_globals["__name__"] != "dataclasses" and caller.f_code.co_filename[0] != "<":
            names.add(name)
        return object.__getattribute__(config, name)

    monkeypatch.setattr(Config, "__getattribute__", get)
    return names


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_what_is_declared_is_read(algo: str, read: set[str], tmp_path: Path) -> None:
    for number, settings in enumerate(kinds_of_runs(algo)):
        train(tmp_path / str(number), algo, **settings)
    assert read_by(algo) - OF_PROCESSES <= read


def test_processes_read_what_only_they_do() -> None:
    found = set()
    for file in LAUNCH.rglob("*.py"):
        found |= {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
    assert found >= OF_PROCESSES <= read_by("matrpo")


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_what_is_not_declared_changes_nothing_or_is_refused(algo: str, tmp_path: Path) -> None:
    settings = next(kinds_of_runs(algo))
    undeclared = {key: other_than(key) for key in FIELDS if key not in read_by(algo)}
    refused = {
        key for key in MAY_BE_REFUSED & undeclared.keys() if is_refused(algo, {**settings, key: undeclared[key]})
    }
    changes = {key: value for key, value in undeclared.items() if key not in refused}
    plain = train(tmp_path / "plain", algo, **settings)
    changed = train(tmp_path / "changed", algo, **settings, **changes)
    for a, b in zip(plain.processes().values(), changed.processes().values(), strict=True):
        first, second = a.load_checkpoint(2)[0], b.load_checkpoint(2)[0]
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[name], second[name]) for name in first)


def is_refused(algo: str, settings: dict[str, Any]) -> bool:
    """Whether an algorithm cannot be built with such settings."""
    config = run_config(resolve(("test", {**TINY, **settings, "algo": algo})))
    if algorithm_names.is_central(algo):
        env = make_env(config.task, config.agents, config.num_envs, 0)
        try:
            build_algorithm(env, config)
        except ConfigError:
            return True
    return False


def other_than(key: str) -> Any:
    """A value of a setting that is not its default."""
    default, choices = FIELDS[key].default, FIELDS[key].metadata["choices"]
    if key == "topology":
        return "line"
    if choices:
        return next(choice for choice in choices if choice != default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, tuple):
        return [3]
    return 1 if default is None else default / 2 if isinstance(default, float) else default + 1
