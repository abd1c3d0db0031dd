"""The error for a task name that a family does not have."""

from __future__ import annotations

from collections.abc import Iterable

from matrpo.errors import ConfigError, closest


def unknown_task(family: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for an unknown task, with the closest known name or a list of all.

    Args:
        family: the task's prefix, with its slash.
        name: what follows it, mistaken.
        known: what may follow it.
    """
    lowered = {task.lower(): task for task in known}
    close = closest(name.lower(), lowered)
    hint = f"did you mean {family + lowered[close]!r}?" if close else "expected one of " + ", ".join(lowered.values())
    return ConfigError(f"unknown task {family + name!r} for 'task': {hint}")
