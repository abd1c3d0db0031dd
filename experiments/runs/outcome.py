"""The results of an experiment: learning curves and tables, each with its data."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from matrpo.experiments.pages.plot import draw_curve, encode
from matrpo.experiments.runs.experiment import Experiment, PlannedRun
from matrpo.experiments.runs.record import is_done, read_record
from matrpo.experiments.runs.statistics import Estimate, bootstrap
from matrpo.experiments.runs.tables import (
    Table,
    by_panel,
    diagnostics_table,
    final_table,
    improvement_table,
    latex,
    markdown,
    to_csv,
)
from matrpo.runs.storage import write_crash_safely

_POINTS = 100
"""Points of a learning curve."""

_LEGEND_COLUMNS, _LEGEND_CHARACTERS, _LEGEND_SAMPLE = 3, 70, 8
"""The most columns of a legend, the characters that a plot is wide enough for, and those of the line before a label."""

_TITLE_CHARACTERS = 54
"""Characters that fit in a line of a title above a plot."""


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
    curves = {panel: _curves(lines) for panel, lines in by_panel(done).items()}
    final, improvement, diagnostics = final_table(done), improvement_table(done), diagnostics_table(done)
    contents = {"final.csv": to_csv(final), "final.md": markdown(final), "final.tex": latex(final)}
    contents |= {"diagnostics.csv": to_csv(diagnostics), "diagnostics.md": markdown(diagnostics)}
    pictures = {}
    if rows := _curve_rows(curves):  # empty while no episode has ended
        contents["curves.csv"] = to_csv(rows)
        pictures = {f"curves.{kind}": _picture(experiment, curves, kind) for kind in ("svg", "png")}
    if improvement:
        contents |= {"improvement.csv": to_csv(improvement), "improvement.md": markdown(improvement)}
    files = {**{name: text.encode() for name, text in contents.items()}, **pictures}
    for name, data in files.items():
        write_crash_safely(folder / name, data)
    return [folder / name for name in files]


Curves = dict[str, tuple[int, list[tuple[int, Estimate]]]]
"""Learning curves by label: the number of seeds, and points of environment steps and return."""


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
    record = read_record(run)
    return dict(zip(record.steps, record.returns, strict=True))


def _picture(experiment: Experiment, panels: Mapping[str, Curves], kind: str) -> bytes:
    longest = max(len(_label(line, curves[line][0])) for curves in panels.values() for line in curves)
    columns = min(_LEGEND_COLUMNS, max(1, _LEGEND_CHARACTERS // (longest + _LEGEND_SAMPLE)))
    legend_rows = max(math.ceil(len(curves) / columns) for curves in panels.values())
    figure = Figure(figsize=(5.6 * len(panels) + 0.4, 3.9 + 0.2 * legend_rows), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (panel, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), index + 1)
        for number, (line, (seeds, points)) in enumerate(curves.items()):
            steps = [step / 1e6 for step, _ in points]
            colour = draw_curve(axes, number, steps, [e.value for _, e in points], _label(line, seeds))
            low, high = [e.low for _, e in points], [e.high for _, e in points]
            axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.set_ylabel("team return of an episode (IQM, 95% CI)")
        axes.set_title(textwrap.fill(panel or experiment.title, _TITLE_CHARACTERS))
        if curves:
            axes.legend(frameon=False, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    return encode(figure, kind)


def _label(line: str, seeds: int) -> str:
    return f"{line} ({seeds} {'seed' if seeds == 1 else 'seeds'})"


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
