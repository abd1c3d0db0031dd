"""`matrpo clipping-figure`: the total variation of clipped updates, by clip range, epochs and number of agents.

Figure 1 of the paper on decentralised PPO (section 7), on a particle task: the first update of policies that have just
been initialised, in 100 epochs, each agent clipping its own ratio. Unlike the paper, whose curves are of the largest
total variation alone, these are distributions over all sampled observations; the largest is where a curve ends.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from matrpo.algorithms.mappo import MAPPO
from matrpo.algorithms.shared.learner import Learner
from matrpo.algorithms.shared.mirror import ClipDrift, Mirror, NoDrift, Objective, PolicySpace
from matrpo.build import state_sizes
from matrpo.envs.build import build_environment
from matrpo.envs.central import CentralEnvironment
from matrpo.experiments.pages.plot import COLOURS, STYLES, encode
from matrpo.runs.storage import write_crash_safely
from matrpo.settings.config import Config, resolve

_TASK = "mpe2/simple_spread_v3"
_CLIP_RANGES = (0.1, 0.2, 0.3, None)
_CLIP_RANGE = 0.1
_SHOWN_EPOCHS = (1, 5, 10, 20, 50, 100)
_PERCENTILES = np.arange(101)


@dataclass(frozen=True)
class Update:
    """Probability ratios and total variations of one update, after each of its epochs.

    Attributes:
        ratios: (epochs, 2), the smallest and the largest ratio over agents and samples.
        variations: (epochs, N, M), each agent's total variation between its old and new policy at each sample.
    """

    ratios: np.ndarray
    variations: np.ndarray

    def joint(self, epoch: int) -> np.ndarray:
        """The bound on the joint policies' total variation after an epoch: the sum over agents. (M,)."""
        variation: np.ndarray = self.variations[epoch - 1].sum(axis=0)
        return variation


class _Watch:
    """`PolicySpace`, the set of all policies, but its gradient ascent records ratios and variations after each epoch.

    Args:
        epochs: of gradient ascent.

    Attributes:
        ratios, variations: for each agent, as of `Update`.
    """

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self.ratios: list[np.ndarray] = []
        self.variations: list[np.ndarray] = []

    def maximise(self, objective: Objective, learner: Learner) -> dict[str, float]:
        """Ascend the objective's gradient for the epochs, of which the settings make one at a time."""
        ratios, variations = [], []
        for _ in range(self._epochs):
            PolicySpace().maximise(objective, learner)
            with torch.no_grad():
                new = objective.samples.head(learner.policy)
                ratio = (objective.samples.log_prob(new) - objective.old_log_prob).exp()
                ratios.append((float(ratio.min()), float(ratio.max())))
                variations.append(objective.old.total_variation_to(new).squeeze(1).numpy())
        self.ratios.append(np.array(ratios))
        self.variations.append(np.array(variations))
        return {}


class _Watched(MAPPO):
    """MAPPO, whose clip range may be None: then nothing is clipped."""

    def watch(self, clip_range: float | None, epochs: int) -> _Watch:
        """Set the clip range and epochs of the next update; the object that records it."""
        self._clip_range, self._watch = clip_range, _Watch(epochs)
        return self._watch

    def mirror(self) -> Mirror:
        return Mirror(NoDrift() if self._clip_range is None else ClipDrift(self._clip_range), self._watch)


def draw_clipping(out: Path, agents: int, epochs: int, samples: int, seed: int) -> None:
    """Write the picture as .png and as .svg, and its data as .csv; arguments as of `first_update`."""

    def update(number: int, clip_range: float | None) -> Update:
        click.echo(f"{number} agents, clip range {clip_range or 'none'}", err=True)
        return first_update(number, clip_range, epochs, samples, seed)

    by_range = {clip_range: update(agents, clip_range) for clip_range in _CLIP_RANGES}
    others = {number: update(number, _CLIP_RANGE) for number in (2, 3, 6, 10) if number != agents}
    by_agents = dict(sorted({agents: by_range[_CLIP_RANGE], **others}.items()))
    curves = _curves(by_range, by_agents, epochs)
    figure = _draw(by_range, curves, agents, epochs)
    for kind in ("png", "svg"):
        write_crash_safely(out.with_suffix(f".{kind}"), encode(figure, kind))
    write_crash_safely(out.with_suffix(".csv"), _csv(by_range, curves).encode())


def first_update(agents: int, clip_range: float | None, epochs: int, samples: int, seed: int) -> Update:
    """Sample with newly initialised policies, and update them once.

    Args:
        agents: N.
        clip_range: of each agent's ratio; None: no clipping.
        epochs: of gradient ascent, all samples at once.
        samples: about as many; whole steps of 20 environments.
        seed: of everything random.
    """
    length = samples // 20
    settings = {"algo": "mappo", "task": _TASK, "agents": agents, "seed": seed, "rollout_length": length}
    config: Config = resolve(("figure", {**settings, "num_envs": 20, "policy_epochs": 1, "critic_epochs": 1}))
    torch.set_num_threads(config.torch_threads)
    shared = build_environment(config)
    environment = CentralEnvironment(shared, config.state_type)
    algorithm = _Watched(shared.spec, state_sizes(shared.env, config.state_type), config)
    watch = algorithm.watch(clip_range, epochs)
    step = environment.reset()
    for _ in range(config.rollout_length):
        step = environment.step(algorithm.act(step))
        algorithm.observe(step)
    algorithm.update(1)
    extremes = np.array(watch.ratios)
    ratios = np.stack([extremes[:, :, 0].min(axis=0), extremes[:, :, 1].max(axis=0)], axis=1)
    return Update(ratios, np.array(watch.variations).transpose(1, 0, 2))


_Curves = dict[str, dict[str, np.ndarray]]
"""Percentiles of total variation, by panel and by the curve's label."""


def _curves(by_range: Mapping[float | None, Update], by_agents: Mapping[int, Update], epochs: int) -> _Curves:
    shown = [epoch for epoch in _SHOWN_EPOCHS if epoch <= epochs]
    return {
        "b": {_label(clip): _percentiles(u.variations[-1]) for clip, u in by_range.items()},
        "c": {f"{agents} agents": _percentiles(u.joint(epochs)) for agents, u in by_agents.items()},
        "d": {f"epoch {epoch}": _percentiles(by_range[_CLIP_RANGE].joint(epoch)) for epoch in shown},
    }


def _percentiles(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.percentile(values, _PERCENTILES)
    return found


def _label(clip_range: float | None) -> str:
    return "no clipping" if clip_range is None else f"clip range {clip_range}"


def _draw(by_range: Mapping[float | None, Update], curves: _Curves, agents: int, epochs: int) -> Figure:
    figure = Figure(figsize=(10.0, 7.4), layout="constrained")
    FigureCanvasAgg(figure)
    (ranges, own), (joint, by_epoch) = figure.subplots(2, 2)
    for index, (clip_range, update) in enumerate(by_range.items()):
        style = {"color": COLOURS[index], "linestyle": STYLES[index]}
        numbers = np.arange(1, epochs + 1)
        ranges.plot(numbers, update.ratios[:, 1], label=_label(clip_range), **style)
        ranges.plot(numbers, update.ratios[:, 0], **style)
    # Without clipping the smallest ratio leaves the picture.
    ranges.set(yscale="log", ylim=(0.15, 6.5), xlabel="epochs", ylabel="smallest and largest ratio")
    ranges.set_yticks([0.2, 0.5, 0.7, 1.0, 1.5, 2.0, 5.0], labels=["0.2", "0.5", "0.7", "1", "1.5", "2", "5"])
    ranges.minorticks_off()
    ranges.set_title(f"(a) ratios of {agents} agents")
    ranges.legend(frameon=False, loc="center right", ncols=2)
    summed = "total variation, summed over agents"
    _cumulative(own, curves["b"], f"(b) each of {agents} agents, {epochs} epochs", "total variation")
    _cumulative(joint, curves["c"], f"(c) clip range {_CLIP_RANGE}, {epochs} epochs", summed)
    _cumulative(by_epoch, curves["d"], f"(d) {agents} agents, clip range {_CLIP_RANGE}", summed)
    for axes in (ranges, own, joint, by_epoch):
        axes.grid(alpha=0.3)
    return figure


def _cumulative(axes: Axes, curves: Mapping[str, np.ndarray], title: str, quantity: str) -> None:
    """Draw cumulative distributions: the percentage of samples with at most a value."""
    for index, (label, values) in enumerate(curves.items()):
        style = STYLES[index % len(STYLES)]
        axes.plot(values, _PERCENTILES, color=COLOURS[index], linestyle=style, label=label)
    axes.set(title=title, xlabel=quantity, ylabel="percent of observations", xlim=(0, None), ylim=(0, 101))
    axes.legend(frameon=False)


def _csv(by_range: Mapping[float | None, Update], curves: _Curves) -> str:
    rows: list[Sequence[object]] = [["panel", "curve", "quantity", "at", "value"]]
    for clip_range, update in by_range.items():
        for column, quantity in enumerate(("smallest ratio", "largest ratio")):
            values = update.ratios[:, column]
            rows += [["a", _label(clip_range), quantity, f"epoch {n}", f"{v:.5g}"] for n, v in enumerate(values, 1)]
    for panel, of_panel in curves.items():
        for label, values in of_panel.items():
            points = zip(_PERCENTILES, values, strict=True)
            rows += [[panel, label, "total variation", f"{p} %", f"{v:.5g}"] for p, v in points]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
