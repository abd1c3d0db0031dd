"""Tuned defaults by algorithm and family of tasks: `<algorithm>/<family>.yaml`, used unless others are given.

A file holds settings for `all` tasks of the family and, under `tasks`, what differs for some; under `admm` and
`averaging`, those of that kind of consensus alone. Tasks of a family that has no file get what is tuned for `mpe2`, or
else the defaults of `Config`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent


def load(algo: str, task: str, consensus: str = "admm") -> dict[str, Any]:
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
    return {**content["all"], **of_task, **content.get(consensus, {})}


def families(algo: str) -> list[str]:
    """The families of tasks for which an algorithm has tuned settings."""
    return sorted(path.stem for path in (FOLDER / algo).glob("*.yaml"))


@cache
def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content
