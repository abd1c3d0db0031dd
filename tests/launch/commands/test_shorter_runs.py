"""A run whose steps are set to fewer than it has done, or to so few that nothing will be learned."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from running import Matrpo

SMALL = ("--agents", "2", "--topology", "line", "--num-envs", "2", "--rollout-length", "10", "--hidden-sizes", "4")
QMIX = ("--algo", "qmix", "--task", "game/miscoordination", "--num-envs", "2", "--rollout-length", "10")


@pytest.fixture
def finished(matrpo: Matrpo, tmp_path: Path) -> Path:
    """A run that has done 40 steps."""
    run = tmp_path / "run"
    status, _, errors = matrpo("launch", "--run", run, "--in-process", *SMALL, "--steps", 40)
    assert status == 0, errors
    return run


def test_a_resume_with_fewer_steps_than_are_done_is_refused(matrpo: Matrpo, finished: Path) -> None:
    before = (finished / "config.yaml").read_bytes()
    for steps in (1, 20):
        status, out, errors = matrpo("launch", "--run", finished, "--resume", "--in-process", "--steps", steps)
        assert (status, out, errors.count("\n")) == (2, "", 1)
        assert f"bad value {steps} for 'steps'" in errors
        assert "has done 40, expected at least that" in errors
        assert (finished / "config.yaml").read_bytes() == before
    status, _, errors = matrpo("launch", "--run", finished, "--resume", "--in-process", "--steps", 39)
    assert status == 0
    assert "is complete" in errors
    assert (finished / "config.yaml").read_bytes() == before
    assert "40 of 40 steps" in matrpo("status", finished)[1]


def test_settings_lowered_by_hand_stop_a_process_and_mislead_nobody(matrpo: Matrpo, finished: Path) -> None:
    file, cluster = finished / "config.yaml", finished / "cluster.yaml"
    file.write_text(file.read_text().replace("steps: 40", "steps: 20"))
    agents = {q: {"endpoint": f"ipc:///tmp/{q}", "neighbours": [1 - q]} for q in (0, 1)}
    content = {"run_id": "x", "config": "config.yaml", "environment": {"endpoint": "ipc:///tmp/x"}, "agents": agents}
    cluster.write_text(yaml.safe_dump(content))
    for process in (("agent", "--id", "0"), ("env-server",)):
        status, _, errors = matrpo(*process, "--cluster", cluster)
        assert (status, errors.count("\n")) == (2, 1)
        assert "bad value 20 for 'steps'" in errors
        assert "has a checkpoint of iteration 2, expected at least 40" in errors
    assert "40 of 40 steps" in matrpo("status", finished)[1]


def test_a_run_shorter_than_its_warm_up_says_so_at_the_start(matrpo: Matrpo, tmp_path: Path) -> None:
    status, _, errors = matrpo("launch", "--run", tmp_path / "idle", *QMIX, "--steps", 40)
    assert status == 0
    words = "qmix will learn nothing in 40 steps: the first warmup_steps, 10000, act at random"
    assert [words in line for line in errors.splitlines()[:2]] == [False, True]
    status, _, errors = matrpo("launch", "--run", tmp_path / "busy", *QMIX, "--steps", 40, "--warmup-steps", 40)
    assert status == 0
    assert "learn nothing" not in errors
