"""Records of finished runs: what is in them, that they are enough, and whose they are."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from matrpo.errors import ConfigError
from matrpo.experiments.runs.command import experiment
from matrpo.experiments.runs.experiment import Experiment, PlannedRun
from matrpo.experiments.runs.record import read_record, save_record
from matrpo.experiments.runs.tables import final_table
from matrpo.runs.run_directory import RunDirectory

EVALUATION = {"episodes": 7, "return_mean": -3.5, "return_ci95": [-4.0, -3.0], "per_agent": {"agent_0": -3.5}}


def line(iteration: int, episodes: int, team_return: float | None) -> dict:
    return {"iteration": iteration, "steps": 10_000 * iteration, "time": 100.0 + iteration, "episodes": episodes} | {
        "team_return_mean": team_return,
        "seconds_rollout": 0.5,
    }


@pytest.fixture
def planned(tmp_path) -> PlannedRun:
    """A run of an experiment whose training is over."""
    content = {
        "title": "a figure",
        "lines": {"MATRPO": {"admm_iterations": 3}},
        "settings": {"task": "navigation", "agents": 2, "topology": "line"},
        "scales": {"small": {"episodes": 7, "settings": {"steps": 50_000}}},
    }
    file = tmp_path / "figure.yaml"
    file.write_text(yaml.safe_dump(content))
    (run,) = Experiment.load(file, "small").runs(tmp_path / "out")
    directory = RunDirectory.create(run.path, run.config, {})
    ends = [(2, -9.0), (0, None), (0, None), (1, -10.0), (3, -2.0)]
    for iteration, (episodes, team_return) in enumerate(ends, start=1):
        directory.env.log_metrics(line(iteration, episodes, team_return))
    directory.agent(0).log_metrics({"iteration": 5, "kl": 0.25, "resends": 2, "seconds_prepare": 0.125})
    directory.agent(1).log_metrics({"iteration": 5, "kl": 0.75, "resends": 3, "seconds_prepare": 0.125})
    return run


def test_a_record_holds_the_curve_the_outcome_and_what_was_measured(planned):
    save_record(planned, EVALUATION)
    record = read_record(planned)
    assert (record.steps, record.returns) == ([10_000, 40_000, 50_000], [-9.0, -10.0, -2.0])
    assert record.training_return == pytest.approx((-10.0 - 3 * 2.0) / 4)
    assert record.evaluation == EVALUATION
    assert record.settings["gamma"] == planned.config.gamma
    measured = {name: value for name, value in record.diagnostics.items() if value is not None}
    assert measured == {
        "KL": 0.5,
        "resends": 5,
        "wall s": 1.0,
        "rollout s": 0.5,
        "critic s": 0.125,
        "update s": 0.125,
    }


def test_a_run_in_which_no_episode_ended_lately_has_no_training_return(planned):
    directory = RunDirectory.open(planned.path)
    for iteration in (6, 7):
        directory.env.log_metrics(line(iteration, 0, None))
    save_record(planned, EVALUATION)
    assert read_record(planned).training_return is None
    assert final_table([planned])[0]["training return"] == "-"


def test_records_are_enough_for_the_outcome(planned, tmp_path):
    save_record(planned, EVALUATION)
    shutil.rmtree(planned.path)
    arguments = ["run", str(tmp_path / "figure.yaml"), "--out", str(tmp_path / "out")]
    outcome = CliRunner().invoke(experiment, arguments, standalone_mode=False)
    assert outcome.exception is None
    assert outcome.return_value == 0
    assert "| MATRPO | 1 | -3.50 | -4.00 |" in outcome.output
    assert (tmp_path / "out" / "curves.png").is_file()


def test_only_the_chosen_lines_are_run_and_all_that_are_done_are_shown(planned, tmp_path):
    file = tmp_path / "figure.yaml"
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**content, "lines": {**content["lines"], "other": {"gamma": 0.5}}}))
    save_record(planned, EVALUATION)
    arguments = ["run", str(file), "--out", str(tmp_path / "out")]
    outcome = CliRunner().invoke(experiment, [*arguments, "--line", "MATRPO"], standalone_mode=False)
    assert outcome.return_value == 0
    assert "| MATRPO | 1 |" in outcome.output
    assert not (tmp_path / "out" / "runs" / "other-s0").exists()
    outcome = CliRunner().invoke(experiment, [*arguments, "--line", "MAPPO"], standalone_mode=False)
    assert str(outcome.exception) == "--line MAPPO: the lines are MATRPO, other"


def test_a_record_of_another_run_is_refused(planned):
    save_record(planned, EVALUATION)
    other = dataclasses.replace(planned, settings={**planned.settings, "gamma": 0.5})
    with pytest.raises(ConfigError, match=r"MATRPO-s0.json is of a run with gamma 0.95, not 0.5: move it away"):
        read_record(other)
    with pytest.raises(ConfigError, match="of faults None and 7 episodes, not of None and 9"):
        read_record(dataclasses.replace(planned, episodes=9))
    threads = dataclasses.replace(planned, settings={**planned.settings, "torch_threads": 4})
    assert read_record(threads).evaluation == EVALUATION


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": {}}'])
def test_a_damaged_record_is_named(planned, content):
    planned.record_path.parent.mkdir()
    planned.record_path.write_text(content)
    with pytest.raises(ConfigError, match=r"MATRPO-s0.json is not the record of a run: remove it"):
        read_record(planned)


def test_a_record_is_a_small_file(planned):
    save_record(planned, EVALUATION)
    content = json.loads(planned.record_path.read_text())
    assert content["versions"]["matrpo"]
    assert not any(isinstance(value, float) and math.isnan(value) for value in content["diagnostics"].values())
    assert Path(planned.record_path).stat().st_size < 8_000
