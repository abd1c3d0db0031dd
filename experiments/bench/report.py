"""A benchmark's results: rows for the table and the JSON file alike, and their comparison with the goals."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from matrpo.runs.storage import write_crash_safely

Row = Mapping[str, str | int | float]
"""One line of a table: its columns' names and values."""

Say = Callable[[str], None]
"""Shows the user a line of progress."""

_PACKAGES = ("matrpo", "torch", "numpy", "pyzmq", "mpe2")
_WIDTH = 120
"""Width of tables in characters where standard output is not a terminal."""


@dataclass(frozen=True)
class Goal:
    """A lower or upper limit for a measured figure.

    Attributes:
        what: the figure.
        value: as measured.
        limit: what it should be `at_least`, or else at most.
        at_least: which side of the limit is good.
    """

    what: str
    value: float
    limit: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the figure keeps the limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True)
class Report:
    """The results of a benchmark.

    Attributes:
        name: of the benchmark.
        settings: everything that the figures depend on.
        tables: rows by the title of their table; the keys of its first row are its columns.
        goals: how the figures compare with what they should be.
    """

    name: str
    settings: Mapping[str, Any]
    tables: Mapping[str, Sequence[Row]]
    goals: Sequence[Goal] = ()

    def save(self, path: Path) -> None:
        """Write everything as JSON, with facts of the machine.

        Raises:
            StorageError: the disk is full or read-only.
        """
        document = {
            "benchmark": self.name,
            "machine": machine_facts(),
            "settings": self.settings,
            "tables": self.tables,
            "goals": [{**vars(goal), "met": goal.met} for goal in self.goals],
        }
        write_crash_safely(path, (json.dumps(document, indent=2) + "\n").encode())

    def print(self) -> None:
        """Show the tables and goals on standard output."""
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=_WIDTH)
        for title, rows in self.tables.items():
            console.print(_draw(title, rows))
        for goal in self.goals:
            sign = ">=" if goal.at_least else "<="
            verdict = "met" if goal.met else "NOT MET"
            console.print(f"{verdict:8}{goal.what}: {_text(goal.value)} (goal: {sign} {_text(goal.limit)})")


def machine_facts() -> dict[str, Any]:
    """The machine, its load, and the versions of the packages that the figures depend on."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": list(os.getloadavg()),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in _PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _draw(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    for column, value in rows[0].items():
        table.add_column(column.replace("_", " "), justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*map(_text, row.values()))
    return table


def _text(value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
