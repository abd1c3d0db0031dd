"""Tuned defaults by algorithm and family of tasks: `<algorithm>/<family>.yaml`, used unless others are given.

A file holds settings for `all` tasks of the family and, under `tasks`, what differs for some. Tasks of a family that
has no file get what is tuned for `mpe2`; algorithms without a folder, the defaults of `Config`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent


def load(algo: str, task: str) -> dict[str, Any]:
    """The tuned settings of an algorithm on a task; empty if nothing is tuned for it."""
    folder = FOLDER / algo
    if "/" in algo or not folder.is_dir():
        return {}
    family, _, name = task.partition("/")
    path = folder / f"{family}.yaml"
    content = _read(path if path.is_file() else folder / "mpe2.yaml")
    return {**content["all"], **content.get("tasks", {}).get(name.removesuffix("-continuous"), {})}


def families(algo: str) -> list[str]:
    """The families of tasks for which an algorithm has tuned settings."""
    return sorted(path.stem for path in (FOLDER / algo).glob("*.yaml"))


@cache
def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content
