"""Tuned defaults by algorithm and family of tasks: `<algorithm>/<family>.yaml`, used unless others are given.

A file holds settings for `all` tasks of the family and, under `tasks`, what differs for some; under `admm` and
`averaging`, those of that kind of consensus alone, and under `few` what takes their place in teams of `agents` or less,
with `default` also where their number is not given, as the task's own is one of these.
Tasks of a family that has no file get what is tuned for `mpe2`, or else the defaults of `Config`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent


def load(algo: str, task: str, consensus: str = "admm", agents: int | None = None) -> dict[str, Any]:
    """The tuned settings of an algorithm on a task, with a kind of consensus; empty if nothing is tuned for it."""
    if "/" in algo:
        return {}
    family, _, name = task.partition("/")
    paths = (FOLDER / algo / f"{each}.yaml" for each in (family, "mpe2"))
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return {}
    content = _read(path)
    of_task = content.get("tasks", {}).get(name.removesuffix("-continuous"), {})
    of_consensus, few = content.get(consensus, {}), content.get("few", {"agents": 0})
    if few.get("default", False) if agents is None else agents <= few["agents"]:
        of_consensus = few.get(consensus, of_consensus)
    return {**content["all"], **of_task, **of_consensus}


def families(algo: str) -> list[str]:
    """The families of tasks for which an algorithm has tuned settings."""
    return sorted(path.stem for path in (FOLDER / algo).glob("*.yaml"))


@cache
def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content
