"""Experiments: files and their scales, statistics, the queue of runs, and what it leaves."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import yaml
from click.testing import CliRunner
from matplotlib.image import imread

from matrpo.errors import ConfigError
from matrpo.experiments.matrpo_command import MATRPO
from matrpo.experiments.runs.experiment import SCALES, Experiment, shipped
from matrpo.experiments.runs.outcome import save_outcome
from matrpo.experiments.runs.runner import calibrate, distinct
from matrpo.experiments.runs.warm_worker import WarmWorker
from matrpo.launch.cli import cli
from matrpo.settings import presets
from matrpo.settings.config import resolve

TINY = {"steps": 600, "num_envs": 3, "rollout_length": 100, "hidden_sizes": [4], "checkpoint_every": 1}
"""In which every environment ends two episodes."""


def write(path: Path, **changes) -> Path:
    content = {
        "title": "a figure",
        "source": "nobody, Figure 0",
        "settings": {"task": "navigation", "agents": 3},
        "lines": {"MATRPO": {"admm_iterations": 3}, "HAPPO": {"algo": "happo"}},
        "scales": {"smoke": {"seeds": 2, "settings": TINY}},
        **changes,
    }
    path.write_text(
        yaml.safe_dump({key: value for key, value in content.items() if value is not None}, sort_keys=False)
    )
    return path


def command(*arguments) -> list[str]:
    return [*MATRPO, "experiment", "run", *map(str, arguments)]


def run(*arguments) -> subprocess.CompletedProcess[str]:
    """The queue in the process of the test; each of its runs is one of its own."""
    typed = ["experiment", "run", *map(str, arguments)]
    done = CliRunner().invoke(cli, typed, prog_name="matrpo", standalone_mode=False, catch_exceptions=False)
    return subprocess.CompletedProcess(typed, done.return_value or 0, done.stdout, done.stderr)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_every_run_of_a_figure_has_valid_settings_and_a_folder_of_its_own(path, scale, tmp_path):
    runs = list(Experiment.load(path, scale).runs(tmp_path))
    assert len({planned.path for planned in runs}) == len({(planned.config, planned.faults) for planned in runs})
    for planned in runs:
        assert planned.config.steps == planned.settings["steps"]


def test_table_iii_is_the_preset_with_recycled_directions(tmp_path):
    settings = next(Experiment.load(Path("matrpo-table3-settings"), "paper").runs(tmp_path)).settings
    solver = {"solver": "recycled", "solver_tolerance": 0.1, "solver_check_every": 4}
    preset = {**presets.load("paper", "navigation", 3), **solver, "task": "navigation", "agents": 3}
    budget = {"seed": 0, "steps": 5_000_000}
    assert resolve(("experiment", settings)) == resolve(("preset", {**preset, **budget}))


def test_later_layers_win(tmp_path):
    file = write(
        tmp_path / "figure.yaml",
        settings={"task": "navigation", "agents": 3, "gamma": 0.1, "damping": 0.1, "kl_step": 0.1},
        panels={"left": {"settings": {"damping": 0.2, "kl_step": 0.2}}, "right": {"lines": {"only": {}}}},
        lines={"MATRPO": {"kl_step": 0.3}},
    )
    first, _, last, _ = sorted(Experiment.load(file, "smoke").runs(tmp_path), key=lambda planned: planned.panel)
    assert (first.config.gamma, first.config.damping, first.config.kl_step) == (0.1, 0.2, 0.3)
    assert (last.line, last.config.kl_step, last.config.steps) == ("only", 0.1, 600)


def test_lines_of_the_same_settings_share_their_runs(tmp_path):
    lines = {"all defaults": {}, "said": {"gamma": 0.95}, "other": {"gamma": 0.9}, "faulty": {"faults": "loss-20"}}
    runs = list(Experiment.load(write(tmp_path / "figure.yaml", lines=lines), "smoke").runs(tmp_path))
    assert [planned.line for planned in distinct(runs)] == ["all defaults", "other", "faulty"] * 2
    assert [planned.path.name for planned in runs[:2]] == ["all-defaults-s0"] * 2


def check(file: Path, folder: Path) -> None:
    for planned in Experiment.load(file, "smoke").runs(folder):
        planned.check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lines": None}, "no lines"),
        ({"scales": {}}, "'scales' must be a mapping"),
        ({"scales": {"paper": {}}}, "has no scale 'smoke'"),
        ({"plots": 3}, "unknown key 'plots'"),
        ({"scales": {"smoke": {"seed": 3}}}, "unknown key 'seed' in scale 'smoke'"),
        ({"scales": {"smoke": {"episodes": 0}}}, "'episodes' of scale 'smoke' must be a whole number of at least 1"),
        ({"lines": {"HAPPO": {"algo": "hapo"}}}, "did you mean 'happo'?"),
        ({"lines": {"HAPPO": {"steps": -1}}, "scales": {"smoke": {}}}, "at least 1"),
        ({"lines": {"odd": {"algo": "happo", "faults": "loss-20"}}}, "run odd-s0: .* happo trains in one"),
        ({"lines": {"odd": {"faults": "loss-21"}}}, "loss-21"),
    ],
)
def test_a_bad_file_is_one_line_and_nothing_runs(changes, message, tmp_path):
    file = write(tmp_path / "figure.yaml", **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        check(file, tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'matrpo-fig5-sweeps'"):
        Experiment.load(Path("matrpo-fig5-sweep"), "smoke")


def test_a_queue_that_is_killed_repeats_nothing_and_loses_nothing(tmp_path):
    lines = {"MATRPO": {"admm_iterations": 3}, "QMIX": {"algo": "qmix"}}
    file = write(tmp_path / "figure.yaml", lines=lines, scales={"smoke": {"episodes": 3, "settings": TINY}})
    arguments = (file, "--scale", "smoke", "--out", tmp_path / "out", "--jobs", 1)
    process = subprocess.Popen(command(*arguments), stderr=subprocess.DEVNULL, start_new_session=True)
    first = tmp_path / "out" / "records" / "MATRPO-s0.json"
    deadline = time.monotonic() + 120
    while not first.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    others = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(others, timeout=20)
    assert not alive
    finished = first.stat().st_mtime_ns

    again = run(*arguments)
    assert again.returncode == 0, again.stderr
    assert first.stat().st_mtime_ns == finished
    results = sorted((tmp_path / "out" / "records").glob("*.json"))
    assert [path.stem for path in results] == ["MATRPO-s0", "QMIX-s0"]
    assert {json.loads(path.read_text())["evaluation"]["episodes"] for path in results} == {3}


@pytest.mark.slow
def test_a_queue_that_is_killed_again_and_again_repeats_nothing_and_loses_nothing(tmp_path):
    lines = {"MATRPO": {"admm_iterations": 3}, "HAPPO": {"algo": "happo"}, "lossy": {"faults": "loss-20"}}
    file = write(tmp_path / "figure.yaml", lines=lines, scales={"smoke": {"seeds": 2, "settings": TINY}})
    arguments = (file, "--scale", "smoke", "--out", tmp_path / "out", "--jobs", 2)
    moments = random.Random(0)
    finished = {}
    for _ in range(12):
        process = psutil.Popen(command(*arguments), stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            process.wait(moments.uniform(0.5, 12.0))
        except psutil.TimeoutExpired:
            others = process.children(recursive=True)
            process.kill()
            process.wait()
            assert not psutil.wait_procs(others, timeout=30)[1]
        results = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "records").glob("*.json")}
        assert finished.items() <= results.items()
        finished = results
    again = run(*arguments)
    assert again.returncode == 0, again.stderr
    results = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "records").glob("*.json")}
    assert finished.items() <= results.items()
    assert len(results) == 6


def test_failures_stay_by_themselves_and_what_is_done_is_plotted(tmp_path):
    lines = {"HAPPO": {"algo": "happo"}, "broken": {"algo": "hatrpo", "share_parameters": True}}
    file = write(tmp_path / "figure.yaml", lines=lines, scales={"smoke": {"settings": TINY}})
    outcome = run(file, "--scale", "smoke", "--out", tmp_path / "out", "--jobs", 1)
    assert outcome.returncode == 1
    assert "failed: broken, seed 0: matrpo: error:" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert "| HAPPO | 1 |" in outcome.stdout
    names = {
        path.name for path in (tmp_path / "out").iterdir() if path.suffix in (".svg", ".png", ".csv", ".md", ".tex")
    }
    tables = {"final.md", "final.tex", "final.csv", "diagnostics.md", "diagnostics.csv"}
    assert names == {"curves.svg", "curves.png", "curves.csv"} | tables
    assert (tmp_path / "out" / "final.tex").read_text().count(r"\\") == 2


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    """The folder of an experiment on many processes with lost messages, on one, and on an algorithm that has no links.

    The settings of all hold one that not all of them use.
    """
    folder = tmp_path_factory.mktemp("compared")
    file = write(
        folder / "figure.yaml",
        settings={"task": "navigation", "agents": 3, "admm_iterations": 12},
        lines={"ring": {}, "lossy": {"faults": "loss-20"}, "HATRPO": {"algo": "hatrpo"}},
        scales={"smoke": {"seeds": 1, "settings": TINY}},
    )
    outcome = run(file, "--scale", "smoke", "--out", folder, "--jobs", 1)
    assert outcome.returncode == 0, outcome.stderr
    return folder


def rows_of(file: Path) -> dict[str, dict[str, str]]:
    with open(file) as lines:
        return {row["line"]: row for row in csv.DictReader(lines)}


def test_lost_messages_change_no_result(compared):
    ring, lossy = (json.loads((compared / "records" / f"{line}-s0.json").read_text()) for line in ("ring", "lossy"))
    assert all(ring[key] == lossy[key] for key in ("evaluation", "steps", "returns", "training_return"))
    final = rows_of(compared / "final.csv")
    assert final["lossy"] == {**final["ring"], "line": "lossy"}
    assert final["lossy"]["better than the first by"] == "0.0 %"


def test_long_titles_and_names_of_lines_are_whole_in_the_picture(compared, tmp_path):
    names = {"ring": "beta 0.1, gamma 0.95 on a ring", "HATRPO": "another algorithm altogether"}
    content = yaml.safe_load((compared / "figure.yaml").read_text())
    lines = {new: content["lines"][old] for old, new in names.items()}
    title = "a title that has more to say about what is below it than one line of it has room for"
    file = write(tmp_path / "figure.yaml", **content | {"title": title, "lines": lines})
    experiment = Experiment.load(file, "smoke")
    runs = list(experiment.runs(tmp_path))
    (tmp_path / "records").mkdir()
    for old, planned in zip(names, runs, strict=True):
        shutil.copy(compared / "records" / f"{old}-s0.json", planned.record_path)
    save_outcome(experiment, runs, tmp_path)
    pixels = imread(tmp_path / "curves.png")[..., :3]
    assert pixels.min() < 0.5
    assert (pixels[:, [0, -1]] == 1).all(), "something is cut off at an edge"


def test_diagnostics_say_what_was_measured_and_nothing_else(compared):
    rows = rows_of(compared / "diagnostics.csv")
    assert float(rows["lossy"]["resends"]) > 0 == float(rows["ring"]["resends"])
    assert float(rows["lossy"]["residual"]) == float(rows["ring"]["residual"]) > 0
    assert float(rows["HATRPO"]["KL"]) > 0
    assert {rows["HATRPO"][name] for name in ("residual", "MB sent", "skipped")} == {"-"}


@pytest.mark.slow
def test_a_run_with_faults_that_was_broken_off_begins_anew(compared, tmp_path):
    """Its script acts in seconds: what happened before would not happen again."""
    shutil.copytree(compared, tmp_path / "again")
    broken, record = (tmp_path / "again" / part for part in ("runs/lossy-s0", "records/lossy-s0.json"))
    record.unlink()
    begun = (broken / "config.yaml").stat().st_mtime_ns
    outcome = run(tmp_path / "again" / "figure.yaml", "--scale", "smoke", "--out", tmp_path / "again")
    assert outcome.returncode == 0, outcome.stderr
    assert (broken / "config.yaml").stat().st_mtime_ns > begun
    before, after = (json.loads(path.read_text()) for path in (compared / "records" / record.name, record))
    assert (after["evaluation"], after["returns"]) == (before["evaluation"], before["returns"])


def test_a_plan_says_what_it_takes_and_leaves_nothing(tmp_path):
    file = write(tmp_path / "figure.yaml", lines={"HAPPO": {"algo": "happo"}})
    outcome = run(file, "--scale", "smoke", "--out", tmp_path / "out", "--dry-run")
    assert outcome.returncode == 0, outcome.stderr
    assert "2 runs, 0 done" in outcome.stdout
    assert not (tmp_path / "out").exists()


def test_a_trial_of_a_replaying_algorithm_learns_as_the_run_does_after_its_warm_up(tmp_path):
    changed = {"algo": "hatd3", "task": "mpe2/simple_spread_v3-continuous", "steps": 50000, "num_envs": 5}
    file = write(tmp_path / "figure.yaml", lines={"HATD3": {**changed, "batch_size": 10, "warmup_steps": 500}})
    planned = next(iter(Experiment.load(file, "smoke").runs(tmp_path / "out")))
    with closing(WarmWorker()) as worker:
        calibrate(planned, tmp_path, worker)
    lines = (tmp_path / planned.path.name / "trainer" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["critic_loss"] is not None for line in lines] == [True] * 3
