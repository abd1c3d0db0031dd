"""`matrpo report --html FILE`: a report of runs as one self-contained HTML page."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from matrpo.errors import ConfigError
from matrpo.experiments.pages.plot import COLOURS, draw_curve, encode
from matrpo.launch.screen.picture import save_picture
from matrpo.runs.graph_settings import build_graph
from matrpo.runs.process_directory import ProcessDirectory
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings import algorithm_names
from matrpo.settings.config import FIELDS, to_dict

Tables = Mapping[str, Sequence[Mapping[str, Any]]]
Lines = Sequence[Mapping[str, Any]]
Series = dict[str, tuple[list[float], list[float]]]
"""Curves by label: steps in millions, and values."""

_DIAGNOSTICS = {
    "kl": "mean KL of an update",
    "consensus_residual": "consensus residual",
    "explained_variance": "variance that critics explain",
    "entropy": "entropy of policies",
}
_PHASES = ("rollout", "prepare", "consensus", "update", "finish", "waiting")


@dataclass(frozen=True)
class Picture:
    """An image inside the page.

    Attributes:
        source: a data URI.
        caption: what it shows.
    """

    source: str
    caption: str


@dataclass(frozen=True)
class Section:
    """The page's section on one run.

    Attributes:
        name: of its folder.
        facts: a few figures, by name.
        settings: changed ones: name, value, and default.
        all_settings: as YAML has them.
        versions: of the packages that it ran with.
        pictures: of the graph, and of an episode.
        tables: rows by title.
    """

    name: str
    facts: dict[str, str]
    settings: list[tuple[str, str, str]]
    all_settings: dict[str, str]
    versions: list[str]
    pictures: list[Picture]
    tables: Tables


def report_page(
    runs: Sequence[tuple[RunDirectory, Tables]],
    draw: Callable[[RunDirectory], list[Picture]] | None = None,
    version: str = "",
) -> str:
    """The page as HTML.

    Args:
        runs: each with the tables of its faults and links.
        draw: gives a run's pictures, if that need not be `run_pictures`.
        version: of a page that is served, whose browser asks for newer ones; by default it is a page for good.
    """
    template = Environment(
        loader=PackageLoader("matrpo.experiments.pages", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")
    sections = [_section(run, tables, (draw or run_pictures)(run)) for run, tables in runs]
    return template.render(sections=sections, curves=_curves([run for run, _ in runs]), version=version)


def _section(run: RunDirectory, tables: Tables, pictures: list[Picture]) -> Section:
    settings = to_dict(run.config)
    defaults = {name: list(f.default) if isinstance(f.default, tuple) else f.default for name, f in FIELDS.items()}
    changed = [(key, str(value), str(defaults[key])) for key, value in settings.items() if value != defaults[key]]
    lines = (run.path / "config.yaml").read_text().splitlines()
    versions = [line.removeprefix("# ") for line in lines if line.startswith("#")]
    every = {key: str(value) for key, value in settings.items()}
    return Section(run.path.name, _facts(run), changed, every, versions, pictures, tables)


def _facts(run: RunDirectory) -> dict[str, str]:
    lines = run.environment_metrics()
    config = run.config
    facts = {"task": config.task, "algorithm": config.algo, "agents": str(run.num_agents), "seed": str(config.seed)}
    if lines:
        facts["iterations"] = f"{lines[-1]['iteration']:,} of {config.iterations:,}"
        facts["steps"] = f"{lines[-1]['iteration'] * config.samples:,}"
        returns = [value for line in lines if isinstance(value := line.get("team_return_mean"), int | float)]
        if returns:
            facts["last return"] = f"{returns[-1]:.4g}"
            facts["best return"] = f"{max(returns):.4g}"
        else:
            facts["return"] = "none: no episode has ended"
    if evaluations := sorted((run.path / "evaluation").glob("*.json")):
        facts["evaluated"] = _evaluated(evaluations[-1])
    sent = sum(line.get("bytes_sent") or 0 for process in _learners(run) for line in process.read_metrics())
    if sent:
        facts["sent between agents"] = f"{sent / 1e6:,.1f} MB"
    return facts


def _evaluated(path: Path) -> str:
    try:
        result = json.loads(path.read_text())
        return f"{result['return_mean']:.4g} over {result['episodes']} episodes"
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{path} is damaged: remove it, and evaluate the run again") from None


def run_pictures(run: RunDirectory) -> list[Picture]:
    """A run's graph, and an episode of its latest checkpoint."""
    pictures = []
    with tempfile.TemporaryDirectory(prefix="matrpo-report-") as folder:
        if algorithm_names.entry(run.config.algo).graph:
            graph = build_graph(run.config)
            path = Path(folder) / "graph.svg"
            save_picture(graph, path)
            caption = f"{graph.name}: {len(graph.links)} links, connectivity {graph.algebraic_connectivity():.3f}"
            pictures.append(Picture(_data(path.read_bytes(), "svg+xml"), caption))
        if film := _film(run, Path(folder) / "episode.gif"):
            pictures.append(film)
    return pictures


def _film(run: RunDirectory, path: Path) -> Picture | None:
    """A film of an episode; None where the task cannot be drawn or there is no checkpoint."""
    if not run.latest_common_iteration():
        return None
    from matrpo.evaluation import render_episode

    try:
        frames = render_episode(run, path)
    except ConfigError:
        return None
    return Picture(_data(path.read_bytes(), "gif"), f"an episode of {frames} steps, most probable actions")


def _curves(runs: Sequence[RunDirectory]) -> list[Picture]:
    """The plots: returns, the diagnostics that any run has, and the time of an iteration by phase."""
    names = _names(runs)
    returns = {
        name: _points([run.environment_metrics()], "team_return_mean") for name, run in zip(names, runs, strict=True)
    }
    panels = {"team return of an episode": returns}
    for key, title in _DIAGNOSTICS.items():
        panels[title] = {name: _points(_metrics(run), key) for name, run in zip(names, runs, strict=True)}
    pictures = [_plot(title, series) for title, series in panels.items() if any(x for x, _ in series.values())]
    return [*pictures, *_times(dict(zip(names, runs, strict=True)))]


def _names(runs: Sequence[RunDirectory]) -> list[str]:
    """The runs' labels: folder names; where two are alike, with the folder above."""
    names = [run.path.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{run.path.parent.name}/{name}"
        for name, run in zip(names, runs, strict=True)
    ]


def _learners(run: RunDirectory) -> list[ProcessDirectory]:
    return [directory for process, directory in run.processes().items() if not process.is_server]


def _metrics(run: RunDirectory) -> list[Lines]:
    return [process.read_metrics() for process in _learners(run)]


def _points(processes: Sequence[Lines], key: str) -> tuple[list[float], list[float]]:
    """A metric's curve: environment steps in millions, and means over processes."""
    values: dict[int, list[float]] = {}
    for process in processes:
        for line in process:
            if isinstance(value := line.get(key), int | float) and "steps" in line:
                values.setdefault(line["steps"], []).append(value)
    steps = sorted(values)
    return [step / 1e6 for step in steps], [float(np.mean(values[step])) for step in steps]


def _times(runs: Mapping[str, RunDirectory]) -> list[Picture]:
    """Seconds of an iteration by phase, means over agents and iterations."""
    split = {name: {phase: _phase_seconds(run, f"seconds_{phase}") for phase in _PHASES} for name, run in runs.items()}
    if not any(value for phases in split.values() for value in phases.values()):
        return []

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        left = np.zeros(len(split))
        for index, phase in enumerate(_PHASES):
            widths = np.array([phases[phase] for phases in split.values()])
            if widths.any():
                axes.barh(list(split), widths, left=left, color=COLOURS[index % len(COLOURS)], label=phase)
            left += widths
        axes.set_xlabel("seconds of an iteration")
        figure.legend(frameon=False, ncols=len(_PHASES), loc="outside upper center")

    return [Picture(_drawn(draw, 1.4 + 0.5 * len(split)), "where the time went, mean over iterations and processes")]


def _phase_seconds(run: RunDirectory, key: str) -> float:
    """Mean seconds of a phase over the learners' metrics, or where they lack it, the environment's."""
    return _mean(_metrics(run), key) or _mean([run.environment_metrics()], key)


def _mean(processes: Sequence[Lines], key: str) -> float:
    values = [value for process in processes for line in process if isinstance(value := line.get(key), int | float)]
    return float(np.mean(values)) if values else 0.0


def _plot(title: str, series: Series) -> Picture:
    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for index, (label, (x, y)) in enumerate(series.items()):
            draw_curve(axes, index, x, y, label)
        axes.legend(frameon=False)

    return Picture(_drawn(draw, 3.4), title)


def _drawn(draw: Callable[[Figure], None], height: float) -> str:
    figure = Figure(figsize=(6.4, height), layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    return _data(encode(figure, "svg"), "svg+xml")


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
