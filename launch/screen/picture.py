"""Draws the communication graph as an image file."""

from __future__ import annotations

import io
import re
from pathlib import Path

import networkx as nx
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from numpy.typing import NDArray

from matrpo.errors import ConfigError
from matrpo.runs.storage import replaced_when_complete
from matrpo.topology.graph import CommunicationGraph

_SUFFIXES = (".png", ".svg")
_AGENT_COLOUR = "#0072B2"  # blue of the Okabe-Ito palette: safe for the colour-blind, dark enough in grey print
_LINK_COLOUR = "#555555"
_SPRING_TRIES = 20
_DPI = 200
_MARGIN = 0.1
_PLOT_INCHES = 5.5
_LINE_COLUMNS = 10
"""Agents in a row of a drawn line, which then turns."""

_INNER_RADIUS = 0.88
"""Radius of every second agent of a small world: on one circle, agents would cover links to the next but one."""

_AGENT_SHARE = 0.5
"""Diameter of a drawn agent as a share of the typical distance to its nearest one."""


def save_picture(graph: CommunicationGraph, path: Path) -> None:
    """Draw the graph as PNG or SVG, by the suffix of `path`, whole or not at all.

    Raises:
        ConfigError: another suffix, or the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ConfigError(f"cannot write picture {path}: the suffix must be one of {', '.join(_SUFFIXES)}")
    buffer = io.BytesIO()
    _draw(graph).savefig(buffer, format=suffix[1:], dpi=_DPI, bbox_inches="tight", pad_inches=0.1)
    try:
        with replaced_when_complete(path) as draft:
            draft.write_bytes(buffer.getvalue())
    except OSError as error:
        raise ConfigError(f"cannot write picture {path}: {error.strerror}") from None


def _draw(graph: CommunicationGraph) -> Figure:
    places = _places(graph)
    extent = np.ptp(places, axis=0)
    longest = max(float(extent.max()), 1.0)
    size = _PLOT_INCHES * np.maximum(extent / longest, 0.25)
    figure = Figure(figsize=(float(size[0]), float(size[1])))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(_MARGIN)
    points_per_unit = 72 * _PLOT_INCHES / (1 + 2 * _MARGIN) / longest
    diameter = float(np.clip(_AGENT_SHARE * _spacing(places) * points_per_unit, 9, 26))
    for i, j in graph.links:
        axes.add_patch(
            FancyArrowPatch(
                tuple(places[i]),
                tuple(places[j]),
                arrowstyle="-",
                connectionstyle=f"arc3,rad={_bend(graph, i, j)}",
                shrinkA=0,
                shrinkB=0,
                color=_LINK_COLOUR,
                linewidth=1.2,
                zorder=1,
            )
        )
    x, y = places.T
    axes.scatter(x, y, s=diameter**2, color=_AGENT_COLOUR, edgecolors="white", linewidths=1.0, zorder=2)
    label = {"color": "white", "size": 0.46 * diameter, "ha": "center", "va": "center_baseline", "zorder": 3}
    for agent in range(graph.num_agents):
        axes.text(x[agent], y[agent], str(agent), label)
    figure.text(0.5, 0.99, _title(graph), ha="center", va="bottom", size=11)
    return figure


def _title(graph: CommunicationGraph) -> str:
    agents, links = graph.num_agents, len(graph.links)
    return (
        f"{graph.name}, {agents} {'agent' if agents == 1 else 'agents'}\n"
        f"{links} {'link' if links == 1 else 'links'}, "
        f"algebraic connectivity {graph.algebraic_connectivity():.3g}"
    )


def _places(graph: CommunicationGraph) -> NDArray[np.float64]:
    """The layout: each agent's position, shape (N, 2)."""
    n = graph.num_agents
    family = graph.name.partition(":")[0]
    if columns := _columns(graph):
        row, column = np.divmod(np.arange(n), columns)
        return np.stack([column, -row], axis=1).astype(float)
    if family == "line":
        row, column = np.divmod(np.arange(n), _LINE_COLUMNS)
        return np.stack([np.where(row % 2, _LINE_COLUMNS - 1 - column, column), -row], axis=1).astype(float)
    if family == "star":
        return np.concatenate([np.zeros((1, 2)), _circle(n - 1)])
    if family in ("ring", "complete", "none"):
        return _circle(n)
    if family == "small-world":
        return _circle(n) * np.where(np.arange(n) % 2, 1.0, _INNER_RADIUS)[:, None]
    return _clearest_layout(graph)


def _clearest_layout(graph: CommunicationGraph) -> NDArray[np.float64]:
    """Of several spring layouts and the circle, the one in which agents cover the fewest others and links."""
    n = graph.num_agents
    candidates = []
    for seed in range(max(1, min(_SPRING_TRIES, 2000 // n))):
        layout = nx.spring_layout(graph.to_networkx(), iterations=200, seed=seed, method="force")
        candidates.append(np.array([layout[agent] for agent in range(n)]))
    return min([*candidates, _circle(n)], key=lambda places: _covered(graph, places))


def _covered(graph: CommunicationGraph, places: NDArray[np.float64]) -> int:
    """How many pairs of agents overlap, plus how many agents lie on links that are not theirs."""
    diameter = _AGENT_SHARE * _spacing(places)
    ends = np.array(graph.links)
    start = places[ends[:, 0]]
    along = places[ends[:, 1]] - start
    offset = places[None, :] - start[:, None]  # (L, N, 2)
    share = np.clip((offset @ along[..., None])[..., 0] / (along**2).sum(-1, keepdims=True), 0.0, 1.0)
    to_link = np.linalg.norm(offset - share[..., None] * along[:, None], axis=-1)
    np.put_along_axis(to_link, ends, np.inf, axis=1)
    return int((to_link < 0.6 * diameter).sum() + (_distances(places) < 1.1 * diameter).sum() // 2)


def _spacing(places: NDArray[np.float64]) -> float:
    """The median over agents of the distance to the nearest other one; 1 for a single agent."""
    return float(np.median(_distances(places).min(axis=1))) if len(places) > 1 else 1.0


def _distances(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances between agents, shape (N, N), infinite on the diagonal."""
    distances = np.asarray(np.linalg.norm(places[:, None] - places[None, :], axis=-1), dtype=np.float64)
    np.fill_diagonal(distances, np.inf)
    return distances


def _circle(n: int) -> NDArray[np.float64]:
    """Points on the unit circle, clockwise from the top, shape (n, 2)."""
    angle = 2 * np.pi * np.arange(n) / n
    return np.stack([np.sin(angle), np.cos(angle)], axis=1)


def _columns(graph: CommunicationGraph) -> int:
    """C of a `grid:RxC` or `torus:RxC`, 0 for other graphs."""
    match = re.fullmatch(r"(?:grid|torus):(\d+)x(\d+)", graph.name)
    return int(match[2]) if match and int(match[1]) * int(match[2]) == graph.num_agents else 0


def _bend(graph: CommunicationGraph, i: int, j: int) -> float:
    """Curvature of a link: those that close a torus would otherwise run through the agents between."""
    columns = _columns(graph)
    if not columns or j - i in (1, columns):
        return 0.0
    length = j - i if j - i < columns else (j - i) // columns
    return 0.7 / length
