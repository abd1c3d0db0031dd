"""Agents made alike, in a run that is resumed: what is learned, and what checkpoints are said to be of, is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from running import Matrpo

from matrpo.runs.run_directory import RunDirectory

SMALL = ("--num-envs", "2", "--rollout-length", "10", "--hidden-sizes", "4", "--share-parameters", "--agent-id")


@pytest.mark.parametrize(
    "settings",
    [("--algo", "ippo"), ("--algo", "mappo", "--state-type", "fp", "--recurrent-layers", "1", "--chunk-length", "5")],
)
def test_a_resumed_run_learns_the_same(matrpo: Matrpo, tmp_path: Path, settings: tuple[str, ...]) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    task = ("--task", "navigation", "--agents", 3, *SMALL, *settings)
    for run, steps in ((whole, 60), (parts, 20)):
        status, _, errors = matrpo("launch", "--run", run, *task, "--steps", steps)
        assert status == 0, errors
    status, _, errors = matrpo("launch", "--run", parts, "--resume", "--steps", 60)
    assert status == 0, errors
    pairs = zip(*(RunDirectory.open(run).processes().values() for run in (whole, parts)), strict=True)
    for one, other in pairs:
        left, right = one.load_checkpoint(3)[0], other.load_checkpoint(3)[0]
        assert left.keys() == right.keys()
        for name, array in left.items():
            np.testing.assert_array_equal(array, right[name], err_msg=name)
    status, out, errors = matrpo("eval", parts, "--episodes", 2)
    assert status == 0, errors
    assert "2 episodes at iteration 3" in out
