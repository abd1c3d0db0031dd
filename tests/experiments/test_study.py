"""Studies and plots from the command line, on runs of a few steps."""

import csv
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image

from matrpo.config import ConfigError
from matrpo.experiments.study import Study, interval, summarize, training_return
from matrpo.run_directory import RunDirectory

BASE = {"agents": 3, "num_envs": 2, "rollout_length": 100, "steps": 400, "hidden_sizes": [8]}


VARIANTS = {"lossy": {"faults": "loss-20"}, "ring": {}, "alone": {"topology": "none"}}


def matrpo(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("matrpo")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=240)


def write(path: Path, **content: object) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    file = write(folder / "study.yaml", base=BASE, variants=VARIANTS, seeds=2)
    arguments = ("study", file, "--out", folder / "runs", "--table", folder / "table.md", "--jobs", 2)
    return folder, arguments, matrpo(*arguments)


def test_a_study_runs_every_variant_and_seed_once(studied):
    folder, arguments, finished = studied
    assert finished.returncode == 0, finished.stderr
    runs = sorted(path.name for path in (folder / "runs").iterdir() if path.is_dir())
    assert runs == ["alone_s0", "alone_s1", "lossy_s0", "lossy_s1", "ring_s0", "ring_s1"]
    rows = [line.split("|")[1].strip() for line in finished.stdout.splitlines() if line.startswith("|")]
    assert rows == ["variant", "---", "lossy", "ring", "alone"]
    assert finished.stdout.strip() in (folder / "table.md").read_text()

    result = folder / "runs" / "ring_s0" / "study.json"
    before = (result.stat().st_mtime_ns, json.loads(result.read_text())["fisher_products"])
    assert matrpo(*arguments).stdout == finished.stdout
    assert (result.stat().st_mtime_ns, json.loads(result.read_text())["fisher_products"]) == before


def test_lost_messages_change_no_result(studied):
    """The lossy run is one of processes, the other one of a single process."""
    runs = studied[0] / "runs"
    lossy, ring = (json.loads((runs / name / "study.json").read_text()) for name in ("lossy_s0", "ring_s0"))
    assert lossy == {**ring, "cpu_seconds": None}
    metrics = RunDirectory.open(runs / "lossy_s0").agent(0).read_metrics()
    assert sum(link["resends"] for line in metrics for link in line["links"].values()) > 0


def test_rows_compare_with_the_first_variant():
    def runs(*returns):
        returned = ("return_stochastic", "return_training")
        rest = dict.fromkeys((*returned, "kl", "consensus_residual", "fisher_products", "cpu_seconds"), 1.0)
        return [{"return": value, **rest} for value in returns]

    rows = summarize({"first": runs(-100.0, -200.0, -300.0), "second": runs(-90.0, -180.0, -330.0)})
    # Student's quantile for three seeds is 4.303: 4.303 * 100 / sqrt(3) and 4.303 * 11.547 / sqrt(3).
    assert rows[0]["evaluated return"] == "-200.0 ± 248.4"
    assert rows[1]["better than the first by"] == "+3.3 ± 28.7 %"
    assert interval([2.0, 4.0], ".1f") == "3.0 (2.0 to 4.0)"
    assert interval([2.0], ".1f") == "2.0"


def test_a_killed_study_leaves_no_run_behind(tmp_path):
    file = tmp_path / "study.yaml"
    settings = {"admm_iterations": 3, "steps": 10_000_000}
    file.write_text(yaml.safe_dump({"base": BASE | settings, "variants": {"endless": {}}, "seeds": 1}))
    program = Path(sys.executable).with_name("matrpo")
    arguments = ("study", file, "--out", tmp_path / "runs", "--jobs", "1")
    study = psutil.Popen([program, *map(str, arguments)], stderr=subprocess.DEVNULL)
    metrics = tmp_path / "runs" / "endless_s0" / "env" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists():
        assert time.monotonic() < deadline
        assert study.poll() is None
        time.sleep(0.05)
    workers = study.children(recursive=True)
    study.kill()
    study.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_the_training_return_is_of_the_episodes_of_the_last_20000_steps():
    lines = [
        {"steps": 10_000, "episodes": 100, "team_return_mean": -100.0},
        {"steps": 20_000, "episodes": 1, "team_return_mean": -10.0},
        {"steps": 30_000, "episodes": 0, "team_return_mean": None},
        {"steps": 30_001, "episodes": 3, "team_return_mean": -2.0},
    ]
    assert training_return(lines) == pytest.approx((-10.0 - 3 * 2.0) / 4)
    assert math.isnan(training_return(lines[2:3]))


def test_curves_are_drawn_with_their_data(studied, tmp_path):
    folder, _, _ = studied
    runs = folder / "runs"
    out = tmp_path / "curve.png"
    finished = matrpo("plot", f"ring={runs / 'ring_s0'},{runs / 'ring_s1'}", f"alone={runs / 'alone_s0'}", "--out", out)
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"base": {}, "seeds": 1}, "expected the keys base, variants and seeds"),
        ({"base": {}, "variants": {"a": {"btea": 1}}, "seeds": 1}, "variant a"),
        ({"base": {}, "variants": {"a": {"faults": "loss-21"}}, "seeds": 1}, "loss-21"),
    ],
)
def test_mistakes_in_a_study_file_are_named(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message):
        Study.load(write(tmp_path / "study.yaml", **content))
