"""Presets, named groups of settings in one YAML file each: `--preset NAME` ranks between defaults and config file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from matrpo.errors import ConfigError, did_you_mean

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the available presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str, task: str, agents: int) -> dict[str, Any]:
    """A preset's settings for a task and a number of agents.

    A preset holds settings for all tasks, and for each task some by the number of agents: those of the smallest listed
    number that is not below `agents` apply, or else those of the largest.

    Raises:
        ConfigError: there is no such preset, or it has nothing for the task.
    """
    if name not in names():
        known = ", ".join(names())
        raise ConfigError(f"unknown preset {name!r} (--preset): expected one of {known}{did_you_mean(name, names())}")
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    by_agents = content["tasks"].get(task)
    if by_agents is None:
        known = ", ".join(content["tasks"])
        raise ConfigError(f"preset {name!r} has no settings for task {task!r} (--preset): it has them for {known}")
    number = min((n for n in by_agents if n >= agents), default=max(by_agents))
    return {**content["all"], **by_agents[number]}
