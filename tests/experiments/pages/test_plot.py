"""`matrpo plot`, on runs of a few steps."""

import csv
import subprocess
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from matrpo.errors import ConfigError
from matrpo.experiments.matrpo_command import MATRPO
from matrpo.experiments.pages.plot import Curve, draw_curve, encode
from matrpo.experiments.pages.report_page import report_page
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import resolve
from matrpo.training import make_training

TINY = {"agents": 3, "num_envs": 2, "rollout_length": 100, "steps": 400, "hidden_sizes": [8], "tensorboard": False}


def matrpo(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MATRPO, *map(str, arguments)], capture_output=True, text=True, timeout=240)


def train(path: Path, **settings: object) -> Path:
    run = RunDirectory.create(path, resolve(("test", {**TINY, **settings})), {})
    make_training(run).run(lambda: False, lambda _: None)
    return path


def test_curves_are_drawn_with_their_data(tmp_path):
    first, second = (train(tmp_path / f"ring_s{seed}", admm_iterations=3, seed=seed) for seed in (0, 1))
    alone = train(tmp_path / "alone", algo="happo")
    out = tmp_path / "curve.png"
    finished = matrpo("plot", f"ring={first},{second}", f"alone={alone}", "--out", out)
    assert finished.returncode == 0, finished.stderr
    with Image.open(out) as image:
        assert image.size[0] > 600
    with open(out.with_suffix(".csv")) as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["steps"]) for row in rows] == [
        ("ring", "200"),
        ("ring", "400"),
        ("alone", "200"),
        ("alone", "400"),
    ]
    assert float(rows[0]["min"]) <= float(rows[0]["mean"]) <= float(rows[0]["max"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("curve", "--out", "x.png"), "expected LABEL=RUN"),
        (("a=missing", "--out", "x.png"), "not a run directory"),
        (("a=missing", "--out", "x.pdf"), "ends in .png or .svg"),
    ],
)
def test_mistakes_on_the_plot_command_are_one_line(arguments, message):
    finished = matrpo("plot", *arguments)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_runs_whose_episodes_have_not_ended_are_named(tmp_path):
    """As of a task that never ends one: there is nothing to plot, and the page of the run says so."""
    names = ("new", "endless", "one", "two")
    runs = [RunDirectory.create(tmp_path / name, resolve(("test", TINY)), {}) for name in names]
    for run, returns in zip(runs, ([], [None, None], [None, -1.0], [-1.0, None]), strict=True):
        for number, mean in enumerate(returns, 1):
            run.env.log_metrics({"iteration": number, "steps": 200 * number, "time": 0.0, "team_return_mean": mean})
    new, endless, one, two = runs
    with pytest.raises(ConfigError, match=r"new: no episode has ended in its 0 steps, so there is no return to plot$"):
        Curve("a", [one, new])
    with pytest.raises(ConfigError, match=r"endless: no episode has ended in its 400 steps, so there is no return"):
        Curve("a", [endless])
    with pytest.raises(ConfigError, match="a: the runs have no steps in common at which episodes had ended"):
        Curve("a", [one, two])
    assert Curve("a", [one]).returns.tolist() == [[-1.0]]
    tables = {"faults": [], "links": []}
    assert "none: no episode has ended" in report_page([(endless, tables)])
    assert "none: no episode has ended" not in report_page([(one, tables)])


@pytest.mark.parametrize("points", [1, 2])
def test_a_curve_of_one_point_can_be_seen(points):
    axes = Figure().add_subplot()
    draw_curve(axes, 0, [0.0004, 0.0008][:points], [-293.0, -280.0][:points], "ring")
    (line,) = axes.lines
    assert (line.get_marker() == "o") == (points == 1)
    assert len(axes.get_xticks()) <= 8


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_curves_are_the_same_file(kind):
    def picture() -> bytes:
        figure = Figure()
        draw_curve(figure.add_subplot(), 0, [0.0, 1.0], [2.0, 3.0], "a")
        return encode(figure, kind)

    assert picture() == picture()
