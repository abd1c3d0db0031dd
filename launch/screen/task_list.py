"""The output of `matrpo list tasks`: each task, its default number of agents, and whether it can be run here."""

from __future__ import annotations

from typing import Any

from matrpo.envs.family import NOTHING, Family, KnownTask
from matrpo.envs.registry import families

_HEADINGS = ("task", "agents", "observations", "actions", "steps", "needs", "")


def entries() -> list[dict[str, Any]]:
    """One plain JSON object for each task. Nothing that a task needs is imported for it."""
    return [_entry(task, family) for family in families().values() for task in family.tasks]


def lines(entries: list[dict[str, Any]]) -> list[str]:
    """The same as a table; then what to do for tasks that cannot be run here, and the families that nobody can list."""
    rows = [_HEADINGS, *map(_row, entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    known = list(families().values())
    missing = [f"{family.pattern}  {problem}" for family in known if (problem := family.needs.problem())]
    unlisted = [f"{family.pattern}  {family.description}" for family in known if not family.tasks]
    return [*table, "", *missing, *unlisted]


def _entry(task: KnownTask, family: Family) -> dict[str, Any]:
    spec, problem = task.spec(None), family.needs.problem()
    return {
        "name": task.name,
        "description": task.description,
        "default_agents": task.default_agents,
        "fixed": task.fixed,
        "observation_sizes": list(spec.observation_sizes),
        "action_spaces": [str(space) for space in spec.action_spaces],
        "episode_length": spec.episode_length,
        "needs": family.needs.text,
        "installed": problem is None,
        "problem": problem,
    }


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    agents = f"{entry['default_agents']}{'' if entry['fixed'] else ' or other'}"
    observations = ", ".join(map(str, dict.fromkeys(entry["observation_sizes"])))
    actions = ", ".join(dict.fromkeys(entry["action_spaces"]))
    length = "" if entry["episode_length"] is None else str(entry["episode_length"])
    return entry["name"], agents, observations, actions, length, _needs(entry), entry["description"]


def _needs(entry: dict[str, Any]) -> str:
    if entry["needs"] == NOTHING.text:
        return NOTHING.text
    return f"{entry['needs']}: {'installed' if entry['installed'] else 'not installed'}"
