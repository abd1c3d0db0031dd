"""The committed records give the committed tables, and no run is started."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from matrpo.experiments.runs.experiment import Experiment
from matrpo.experiments.runs.record import is_done
from matrpo.launch.cli import cli

RESULTS = Path(__file__).parents[3] / "experiments" / "results"
WITH_RECORDS = sorted(path.parent.name for path in RESULTS.glob("*/records"))
TABLES = (".csv", ".md", ".tex")


def test_there_are_results() -> None:
    assert len(WITH_RECORDS) >= 5


@pytest.mark.parametrize("name", WITH_RECORDS)
def test_records_give_the_tables(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(RESULTS / name / "records", folder / "records")
    assert all(is_done(run) for run in Experiment.load(Path(name), "small").runs(folder))
    arguments = ["experiment", "run", name, "--out", str(folder)]
    done = CliRunner().invoke(cli, arguments, prog_name="matrpo", standalone_mode=False, catch_exceptions=False)
    assert not done.return_value
    assert not (folder / "runs").exists()
    for committed in (path for path in (RESULTS / name).iterdir() if path.suffix in TABLES):
        assert (folder / committed.name).read_bytes() == committed.read_bytes(), committed.name
