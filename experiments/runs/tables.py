"""The tables of an experiment: final performance, probability of improvement, and diagnostics of learning and cost."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from matrpo.experiments.runs.experiment import PlannedRun
from matrpo.experiments.runs.record import read_record
from matrpo.experiments.runs.statistics import Estimate, bootstrap, probability_of_improvement, relative_gain

_DIAGNOSTICS = {
    "KL": 4,
    "residual": 4,
    "Fisher products": 0,
    "explained variance": 2,
    "joint TV": 3,
    "wall s": 2,
    "rollout s": 2,
    "critic s": 2,
    "consensus s": 2,
    "waiting s": 2,
    "update s": 2,
    "MB sent": 0,
    "resends": 0,
    "skipped": 0,
    "given up": 0,
}
"""Columns of the diagnostics, and their decimal places."""

Table = list[dict[str, str]]


def final_table(runs: Sequence[PlannedRun]) -> Table:
    """Final performance, a row for each line: interquartile means over its seeds.

    Of the return that `matrpo eval` gives, of that of the last 20,000 steps of training, and of by how many percent
    the evaluated return is higher than that of the panel's first line with the same seed.
    """
    rows = []
    for panel, lines in by_panel(runs).items():
        finals = {line: {run.seed: _evaluated(run) for run in group} for line, group in lines.items()}
        first = next(iter(finals.values()))
        trainings = {
            line: np.array([read_record(run).training_return for run in group], dtype=float)
            for line, group in lines.items()
        }
        digits = _digits([*trainings.values(), *(np.array([*own.values()]) for own in finals.values())])
        for line, own in finals.items():
            pairs = np.array([(value, first[seed]) for seed, value in own.items() if seed in first])
            rows.append(
                ({"panel": panel} if panel else {})
                | {
                    "line": line,
                    "seeds": str(len(own)),
                    "evaluated return": _over_seeds(np.array(list(own.values())), digits),
                    "training return": _over_seeds(trainings[line], digits),
                    "better than the first by": f"{_over_seeds(relative_gain(*pairs.T))} %" if len(pairs) else "-",
                }
            )
    return rows


def diagnostics_table(runs: Sequence[PlannedRun]) -> Table:
    """Diagnostics of learning and cost, a row for each line: means over seeds.

    KL, residual, Fisher products and explained variance are of the last five iterations; the counts are of the
    whole run and all agents. "joint TV" is the mean total variation of an update of the joint policy; "wall s" and
    "update s" are medians of the time of an iteration, and of its update at the first learner. A dash is for what
    was not measured.
    """
    rows = []
    for (panel, line), group in _lines(runs).items():
        measured = [read_record(run).diagnostics for run in group]
        row = {"panel": panel} if panel else {}
        row["line"] = line
        for name, digits in _DIAGNOSTICS.items():
            values = [value for own in measured if (value := own[name]) is not None]
            row[name] = f"{np.mean(values):,.{digits}f}" if values else "-"
        rows.append(row)
    return rows


def improvement_table(runs: Sequence[PlannedRun]) -> Table:
    """Probability of improvement: that a run of each panel's first line ends above one of each other line."""
    rows = []
    for panel, lines in by_panel(runs).items():
        finals = {line: np.array([_evaluated(run) for run in group]) for line, group in lines.items()}
        first, *others = finals
        for other in others:
            estimate = probability_of_improvement(finals[first], finals[other])
            claim = {"claim": f"{first} > {other}", "probability": _text(estimate, digits=2)}
            rows.append(({"panel": panel} if panel else {}) | claim)
    return rows


def by_panel(runs: Sequence[PlannedRun]) -> dict[str, dict[str, list[PlannedRun]]]:
    """Runs by the name of their plot and of their curve."""
    panels: dict[str, dict[str, list[PlannedRun]]] = {}
    for (panel, line), group in _lines(runs).items():
        panels.setdefault(panel, {})[line] = group
    return panels


def markdown(table: Table) -> str:
    """A table in Markdown."""
    lines = [list(table[0]), ["---"] * len(table[0]), *(list(row.values()) for row in table)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def latex(table: Table) -> str:
    """A table in LaTeX, for booktabs."""
    body = " \\\\\n".join(" & ".join(map(_escaped, row.values())) for row in table)
    head = " & ".join(map(_escaped, table[0]))
    begin = f"\\begin{{tabular}}{{{'l' * len(table[0])}}}"
    rows = rf"{head} \\", r"\midrule", rf"{body} \\"
    return "\n".join((begin, r"\toprule", *rows, r"\bottomrule", r"\end{tabular}", ""))


def to_csv(table: Table) -> str:
    """A table as comma-separated values."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    return buffer.getvalue()


def _evaluated(run: PlannedRun) -> float:
    return float(read_record(run).evaluation["return_mean"])


def _digits(returns: Sequence[np.ndarray]) -> int:
    """Decimal places of the returns of a panel: two where all are small, as in battles that give at most 2."""
    return 1 if (np.abs(np.concatenate(returns)) >= 10.0).any() else 2


def _over_seeds(values: np.ndarray, digits: int = 1) -> str:
    return _text(bootstrap(values[:, np.newaxis])[0], digits)


def _lines(runs: Sequence[PlannedRun]) -> dict[tuple[str, str], list[PlannedRun]]:
    """Runs by panel and line, in the order of the experiment file."""
    order = {(run.panel, run.line): index for index, run in reversed(list(enumerate(runs)))}
    key: Callable[[PlannedRun], int] = lambda run: order[run.panel, run.line]  # noqa: E731
    groups = [list(group) for _, group in groupby(sorted(runs, key=key), key)]
    return {(group[0].panel, group[0].line): group for group in groups}


def _text(estimate: Estimate, digits: int = 1) -> str:
    if math.isnan(estimate.value):
        return "-"
    if math.isnan(estimate.low):
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _escaped(text: str) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&").replace(">", "$>$")
