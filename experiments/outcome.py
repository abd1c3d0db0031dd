"""What an experiment leaves: learning curves, final performance, and who beats whom, each with its data."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from matrpo.experiments.experiment import Experiment, PlannedRun
from matrpo.experiments.plot import COLOURS, STYLES
from matrpo.experiments.runner import is_done, read_result
from matrpo.experiments.statistics import Estimate, bootstrap, probability_of_improvement
from matrpo.process_directory import write_atomically
from matrpo.run_directory import RunDirectory

_POINTS = 100
"""Points of a learning curve."""

Table = list[dict[str, str]]


def save_outcome(experiment: Experiment, runs: Sequence[PlannedRun], folder: Path) -> list[Path]:
    """Write curves (SVG, PNG, CSV) and tables (Markdown, LaTeX, CSV) of the runs that are done; the files.

    Args:
        experiment: what was run.
        runs: its runs; those not done are left out.
        folder: where to.
    """
    done = [run for run in runs if is_done(run)]
    if not done:
        return []
    curves = {panel: _curves(lines) for panel, lines in _by_panel(done).items()}
    final, improvement = final_table(done), improvement_table(done)
    contents = {"final.csv": _csv(final), "final.md": markdown(final), "final.tex": latex(final)}
    pictures = {}
    if rows := _curve_rows(curves):  # empty while no episode has ended
        contents["curves.csv"] = _csv(rows)
        pictures = {f"curves.{kind}": _picture(experiment, curves, kind) for kind in ("svg", "png")}
    if improvement:
        contents |= {"improvement.csv": _csv(improvement), "improvement.md": markdown(improvement)}
    files = {**{name: text.encode() for name, text in contents.items()}, **pictures}
    for name, data in files.items():
        write_atomically(folder / name, data)
    return [folder / name for name in files]


def final_table(runs: Sequence[PlannedRun]) -> Table:
    """A row for each line: interquartile mean over seeds of the evaluated return, and of the last tenth of training."""
    rows = []
    for (panel, line), group in _lines(runs).items():
        row = {"panel": panel} if panel else {}
        evaluated = np.array([[read_result(run)["return_mean"]] for run in group])
        trained = np.array([[_tail(_returns(run))] for run in group])
        rows.append(
            row
            | {
                "algorithm": line,
                "seeds": str(len(group)),
                "evaluated return": _text(bootstrap(evaluated)[0]),
                "training return, last tenth": _text(bootstrap(trained)[0]),
            }
        )
    return rows


def improvement_table(runs: Sequence[PlannedRun]) -> Table:
    """How probably a run of the first line of each panel ends above one of each other line."""
    rows = []
    for panel, lines in _by_panel(runs).items():
        finals = {line: np.array([read_result(run)["return_mean"] for run in group]) for line, group in lines.items()}
        first, *others = finals
        for other in others:
            estimate = probability_of_improvement(finals[first], finals[other])
            claim = {"claim": f"{first} > {other}", "probability": _text(estimate, digits=2)}
            rows.append(({"panel": panel} if panel else {}) | claim)
    return rows


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


Curves = dict[str, tuple[int, list[tuple[int, Estimate]]]]
"""For each line the number of its seeds, and points: steps and the return there."""


def _curves(lines: Mapping[str, Sequence[PlannedRun]]) -> Curves:
    curves: Curves = {}
    for line, runs in lines.items():
        returns = [_returns(run) for run in runs]
        steps = sorted(set.intersection(*(set(points) for points in returns)))
        if not steps:
            continue
        grid = [int(part[-1]) for part in np.array_split(np.array(steps), min(_POINTS, len(steps)))]
        smooth = np.array([_averaged(points, steps, len(grid)) for points in returns])
        curves[line] = len(runs), list(zip(grid, bootstrap(smooth), strict=True))
    return curves


def _averaged(points: Mapping[int, float], steps: Sequence[int], count: int) -> list[float]:
    """Means over consecutive parts of the steps."""
    return [float(part.mean()) for part in np.array_split(np.array([points[step] for step in steps]), count)]


def _returns(run: PlannedRun) -> dict[int, float]:
    lines = RunDirectory.open(run.path).env.read_metrics()
    return {line["steps"]: line["team_return_mean"] for line in lines if line.get("team_return_mean") is not None}


def _tail(points: Mapping[int, float]) -> float:
    values = list(points.values())
    return float(np.mean(values[-max(1, len(values) // 10) :])) if values else float("nan")


def _picture(experiment: Experiment, panels: Mapping[str, Curves], kind: str) -> bytes:
    figure = Figure(figsize=(5.6 * len(panels) + 0.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (panel, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), index + 1)
        for number, (line, (seeds, points)) in enumerate(curves.items()):
            colour, style = COLOURS[number % len(COLOURS)], STYLES[number % len(STYLES)]
            steps = np.array([step for step, _ in points]) / 1e6
            label = f"{line} ({seeds} {'seed' if seeds == 1 else 'seeds'})"
            axes.plot(steps, [e.value for _, e in points], style, color=colour, label=label, linewidth=1.6)
            low, high = [e.low for _, e in points], [e.high for _, e in points]
            axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.set_xlabel("environment steps (millions)")
        axes.set_ylabel("team return of an episode (IQM, 95% CI)")
        axes.set_title(panel or experiment.title)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150)
    return buffer.getvalue()


def _curve_rows(panels: Mapping[str, Curves]) -> Table:
    return [
        {
            "panel": panel,
            "line": line,
            "seeds": str(seeds),
            "steps": str(step),
            "iqm": f"{estimate.value:.4f}",
            "low": f"{estimate.low:.4f}",
            "high": f"{estimate.high:.4f}",
        }
        for panel, curves in panels.items()
        for line, (seeds, points) in curves.items()
        for step, estimate in points
    ]


def _by_panel(runs: Sequence[PlannedRun]) -> dict[str, dict[str, list[PlannedRun]]]:
    panels: dict[str, dict[str, list[PlannedRun]]] = {}
    for (panel, line), group in _lines(runs).items():
        panels.setdefault(panel, {})[line] = group
    return panels


def _lines(runs: Sequence[PlannedRun]) -> dict[tuple[str, str], list[PlannedRun]]:
    """Runs by panel and line, in the order of the experiment file."""
    order = {(run.panel, run.line): index for index, run in reversed(list(enumerate(runs)))}
    key: Callable[[PlannedRun], int] = lambda run: order[run.panel, run.line]  # noqa: E731
    groups = [list(group) for _, group in groupby(sorted(runs, key=key), key)]
    return {(group[0].panel, group[0].line): group for group in groups}


def _csv(table: Table) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    return buffer.getvalue()


def _text(estimate: Estimate, digits: int = 1) -> str:
    if math.isnan(estimate.value):
        return "-"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _escaped(text: str) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&").replace(">", "$>$")
