"""The state and traffic of each link, merged from the metrics of the agents at its two ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

STATES = ("up", "suspect", "connecting", "down")
"""The states of a link's connection, from good to bad; a link has the worse state of its two ends."""

_SUMS = ("bytes_sent", "messages_sent", "resends", "skips", "give_ups", "quarantines", "unsent")


def link_table(lines: Sequence[Mapping[str, Any]], absent: set[int]) -> list[dict[str, Any]]:
    """The links of a run in its last iteration, by their ends, as JSON values.

    Args:
        lines: every agent's last line of metrics.
        absent: the agents whose line is old: nothing is taken from it, and their links are down.
    """
    ends: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for agent, line in enumerate(lines):
        for neighbour, link in line.get("links", {}).items():
            ends.setdefault((min(agent, int(neighbour)), max(agent, int(neighbour))), [])
            if agent not in absent:
                ends[min(agent, int(neighbour)), max(agent, int(neighbour))].append(link)
    return [_row(pair, ends[pair], bool(absent & set(pair))) for pair in sorted(ends)]


def count_states(table: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many links are in each state, from good to bad."""
    counts = Counter(row["state"] for row in table)
    return {state: counts[state] for state in STATES if counts[state]}


def _row(pair: tuple[int, int], ends: Sequence[Mapping[str, Any]], broken: bool) -> dict[str, Any]:
    states = [state for end in ends if (state := end.get("state")) in STATES]
    worst = max(states, key=STATES.index, default="down" if broken else None)
    rejected: Counter[str] = Counter()
    for end in ends:
        rejected.update({reason: count for reason, count in end.get("rejected", {}).items() if count})
    return {
        "ends": list(pair),
        "state": "down" if broken else worst,
        "rtt_ms_min": min(_known(ends, "rtt_ms_min"), default=None),
        "rtt_ms_median": max(_known(ends, "rtt_ms_median"), default=None),
        "commits": max(_known(ends, "commits"), default=0),
        **{name: sum(_known(ends, name)) for name in _SUMS},
        "rejected": dict(rejected),
    }


def _known(ends: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return [value for end in ends if (value := end.get(name)) is not None]
