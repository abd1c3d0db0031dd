"""The figure of clipped updates, with a few epochs of few samples."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from matrpo.errors import ConfigError
from matrpo.experiments.pages.clipping_command import clipping_figure
from matrpo.experiments.pages.clipping_figure import Update, first_update


@pytest.fixture(scope="module")
def updates() -> dict[float | None, Update]:
    return {clip: first_update(2, clip, epochs=30, samples=500, seed=0) for clip in (0.1, 0.3, None)}


def test_all_clip_ranges_do_the_same_in_the_first_epoch(updates: dict[float | None, Update]) -> None:
    """At the old policy no ratio is clipped."""
    first = updates[0.1]
    for other in updates.values():
        np.testing.assert_array_equal(other.ratios[0], first.ratios[0])
        np.testing.assert_array_equal(other.variations[0], first.variations[0])
    assert first.ratios[0, 0] < 1.0 < first.ratios[0, 1]


def test_the_tighter_the_clip_range_the_less_far_an_update_goes(updates: dict[float | None, Update]) -> None:
    ends = [updates[clip].variations[-1].mean() for clip in (0.1, 0.3, None)]
    assert ends == sorted(ends)
    assert ends[0] < 0.5 * ends[2]
    highest = [updates[clip].ratios[-1, 1] for clip in (0.1, 0.3, None)]
    assert highest == sorted(highest)


def test_the_joint_total_variation_is_the_sum_over_agents(updates: dict[float | None, Update]) -> None:
    update = updates[0.1]
    assert update.variations.shape == (30, 2, 500)
    np.testing.assert_allclose(update.joint(7), update.variations[6, 0] + update.variations[6, 1])
    assert update.variations.min() >= 0
    assert update.variations.max() <= 1


def test_the_command_writes_pictures_and_their_data(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path / "figure.svg"), "--agents", "2", "--epochs", "5", "--samples", "100"]
    result = CliRunner().invoke(clipping_figure, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    with Image.open(tmp_path / "figure.png") as image:
        assert image.size[0] > 1000
    assert "<svg" in (tmp_path / "figure.svg").read_text()
    with open(tmp_path / "figure.csv") as file:
        rows = list(csv.DictReader(file))
    curves = {(row["panel"], row["curve"]) for row in rows}
    assert {curve for panel, curve in curves if panel == "c"} == {f"{n} agents" for n in (2, 3, 6, 10)}
    assert {curve for panel, curve in curves if panel == "d"} == {"epoch 1", "epoch 5"}
    assert sum(row["panel"] == "a" for row in rows) == 4 * 2 * 5
    assert len(rows) == 4 * 2 * 5 + (4 + 4 + 2) * 101


def test_another_kind_of_picture_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.png or \.svg"):
        CliRunner().invoke(clipping_figure, ["--out", str(tmp_path / "figure.pdf")], catch_exceptions=False)
