"""Every shipped experiment as a smoke test, minutes: `pytest -n 0 -m slow tests/experiments/runs/test_figures.py`."""

import subprocess
from pathlib import Path

import pytest

from matrpo.experiments.matrpo_command import MATRPO
from matrpo.experiments.runs.experiment import shipped

SHIPPED = {path.stem: path for path in shipped()}


def smoke(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [*MATRPO, "experiment", "run", name, "--scale", "smoke", "--out", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1200)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHIPPED if not name.endswith("-smac")])
def test_a_figure_s_smoke_scale_runs(name: str, tmp_path: Path) -> None:
    done = smoke(name, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "final.tex").is_file()
    assert (tmp_path / "out" / "diagnostics.csv").is_file()


def test_starcraft_is_asked_for_where_there_is_none(tmp_path: Path) -> None:
    done = smoke("matrpo-fig7-8-smac", tmp_path / "out")
    assert done.returncode == 2
    assert "matrpo: error:" in done.stderr
    assert "smac" in done.stderr
    assert not (tmp_path / "out").exists()
