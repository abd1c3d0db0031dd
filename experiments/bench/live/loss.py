"""Iteration time of launched runs whose messages between neighbours are lost, by the probability of a loss."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matrpo.experiments.bench.live.launching import LaunchedRun, metric
from matrpo.experiments.bench.report import Goal, Report, Row, Say

_LOSSES = (0.0, 0.05, 0.2, 0.3, 0.5)
_LIMITS = {0.3: 1.5, 0.5: 3.0}
"""By the probability of a loss: how many times as long as without any an iteration should take at most."""


def run(agents: int, iterations: int, quick: bool, say: Say) -> Report:
    """Launch a run for each probability.

    Args:
        agents: N, on a ring.
        iterations: measured, after a first one.
        quick: two probabilities and one iteration.
        say: told about the progress.
    """
    losses, iterations = ((0.0, 0.3), 1) if quick else (_LOSSES, iterations)
    settings: dict[str, Any] = {"topology": "ring", "num_envs": 4, "rollout_length": 25, "hidden_sizes": [16, 16]}
    settings |= {"steps": 100 * (iterations + 1), "tensorboard": False}
    rows: list[Row] = []
    for loss in losses:
        rows.append(_measure(agents, settings, loss, iterations))
        say(f"{loss:.0%} lost: {rows[-1]['iteration_seconds_median']:.2f} s for an iteration")
    without = float(rows[0]["iteration_seconds_median"])
    goals = [
        Goal(f"{loss:.0%} lost: seconds of an iteration / without losses", seconds / without, _LIMITS[loss], False)
        for loss, row in zip(losses, rows, strict=True)
        if (seconds := float(row["iteration_seconds_median"])) and loss in _LIMITS
    ]
    return Report("loss", {**settings, "agents": agents, "iterations": iterations}, {"by losses": rows}, goals)


def _measure(agents: int, settings: dict[str, Any], loss: float, iterations: int) -> Row:
    with tempfile.TemporaryDirectory(prefix="matrpo-bench-") as folder:
        script = Path(folder) / "faults.yaml"
        script.write_text(f"faults:\n  - {{ do: drop, probability: {loss} }}\n" if loss else "faults: []\n")
        with LaunchedRun(agents, settings, ["--faults", str(script)]) as launched:
            launched.wait_for(iterations + 1)
            times = metric(launched.environment.read_metrics(), "time")
            lines = [process.read_metrics()[: iterations + 1] for process in launched.agents]
    counted = [line for agent in lines for line in agent]
    return {
        "lost": f"{loss:.0%}",
        "iteration_seconds_median": statistics.median(b - a for a, b in itertools.pairwise(times[: iterations + 1])),
        "iteration_seconds_max": max(b - a for a, b in itertools.pairwise(times[: iterations + 1])),
        "commits": int(sum(metric(counted, "commits"))),
        "given_up": int(sum(metric(counted, "give_ups"))),
        "disagreements": _disagreements(lines),
        "resends": int(sum(metric(counted, "resends"))),
        "MB_sent": sum(metric(counted, "bytes_sent")) / 1e6,
    }


def _disagreements(agents: Sequence[Sequence[dict[str, Any]]]) -> int:
    """The number of states of one number, over links and iterations, that are not the same at both ends."""
    count = 0
    for agent, lines in enumerate(agents):
        for iteration, line in enumerate(lines):
            for neighbour, link in line["links"].items():
                other = agents[int(neighbour)][iteration]["links"][str(agent)]["states"]
                count += sum(link["states"][number] != other[number] for number in link["states"].keys() & other.keys())
    return count // 2
