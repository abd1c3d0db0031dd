"""Learning curves of runs, one line for each group of seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from matrpo.errors import ConfigError
from matrpo.runs.run_directory import RunDirectory

# Okabe and Ito's palette: distinct for colour-blind readers and in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
_MOST_TICKS = 6


def draw_curve(axes: Axes, number: int, millions: Sequence[float], values: Sequence[float], label: str) -> str:
    """Add a line over environment steps to a figure, and give its colour. One point has a mark, as it has no line.

    Args:
        axes: where to draw.
        number: of the line among the figure's, from 0.
        millions: of steps.
        values: as many.
        label: what the legend says.
    """
    colour, style = COLOURS[number % len(COLOURS)], STYLES[number % len(STYLES)]
    marker = "o" if len(millions) == 1 else ""
    axes.plot(millions, values, color=colour, linestyle=style, marker=marker, label=label, linewidth=1.6)
    axes.set_xlabel("environment steps (millions)")
    axes.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.3)
    return colour


class Curve:
    """The team return of a group of runs over their common steps.

    Args:
        label: what the legend says.
        runs: the group's runs, at least one.

    Raises:
        ConfigError: no episode of a run has ended yet, or they ended at different steps.
    """

    def __init__(self, label: str, runs: list[RunDirectory]) -> None:
        self.label = label
        self.runs = len(runs)
        points = [_points(run) for run in runs]
        self.steps = sorted(set.intersection(*(set(p) for p in points)))
        if not self.steps:
            raise ConfigError(f"{label}: the runs have no steps in common at which episodes had ended")
        self.returns = np.array([[p[step] for step in self.steps] for p in points])


def draw(curves: list[Curve], title: str) -> Figure:
    """Plot learning curves as a figure."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, curve in enumerate(curves):
        seeds = "1 seed" if curve.runs == 1 else f"{curve.runs} seeds"
        steps = [step / 1e6 for step in curve.steps]
        colour = draw_curve(axes, index, steps, list(curve.returns.mean(0)), f"{curve.label} ({seeds})")
        axes.fill_between(steps, curve.returns.min(0), curve.returns.max(0), color=colour, alpha=0.18, linewidth=0)
    axes.set_ylabel("team return of an episode")
    axes.set_title(title)
    axes.legend(frameon=False)
    return figure


def _points(run: RunDirectory) -> dict[int, float]:
    lines = run.environment_metrics()
    ended = [line for line in lines if line.get("team_return_mean") is not None and "steps" in line]
    points = {line["steps"]: line["team_return_mean"] for line in ended}
    if not points:
        steps = lines[-1]["iteration"] * run.config.samples if lines else 0
        raise ConfigError(f"{run.path}: no episode has ended in its {steps} steps, so there is no return to plot")
    return points


def curve_data(curves: list[Curve]) -> str:
    """The points of learning curves as CSV: their mean, least and greatest return."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["label", "steps", "mean", "min", "max"])
    for curve in curves:
        for step, values in zip(curve.steps, curve.returns.T, strict=True):
            writer.writerow([curve.label, step, *(round(float(f(values)), 3) for f in (np.mean, np.min, np.max))])
    return buffer.getvalue()


def encode(figure: Figure, kind: str) -> bytes:
    """A figure as a file of a kind, `png` or `svg`: the same bytes for the same curves."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "matrpo"}):  # from which ids are drawn, at random without one
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
