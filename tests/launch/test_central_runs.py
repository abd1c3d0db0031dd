"""Real runs of algorithms that train all agents in one process, from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from running import LAST, checkpoints, has_iterations, metrics, session_of, start, survivors, train, wait_for

from matrpo.run_directory import RunDirectory

HAPPO = ("--algo", "happo", "--agents", "3")
SPREAD = ("--task", "mpe2/simple_spread_v3")
LARGE = ("--num-envs", "20", "--rollout-length", "100")
"""2000 samples: slow enough to be interrupted."""

CONSENSUS_WORDS = ("residual", "sent", "links", "ring", "absent")


def matrpo(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "matrpo.launch.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def happo(folder: Path) -> Path:
    return train(folder / "happo", *HAPPO)


def test_a_finished_run_is_complete(happo: Path) -> None:
    run = RunDirectory.open(happo)
    assert run.latest_common_iteration() == LAST
    lines = metrics(happo)
    assert set(lines) == {f"{name}/metrics.jsonl" for name in ("env", "trainer", *(f"agents/0{i}" for i in range(3)))}
    assert all([line["iteration"] for line in its] == list(range(1, LAST + 1)) for its in lines.values())
    assert not (happo / "cluster.yaml").exists()
    assert not (happo / "keys").exists()


def test_in_process_is_what_it_is_anyway(folder: Path, happo: Path) -> None:
    single = train(folder / "in-process", *HAPPO, "--in-process")
    assert checkpoints(single) == checkpoints(happo)
    assert metrics(single) == metrics(happo)


@pytest.mark.parametrize(
    "arguments",
    [("--algo", "happo", *SPREAD, "--recurrent-layers", "1"), ("--algo", "hatrpo", *SPREAD), ("--algo", "mappo")],
    ids=["happo", "hatrpo", "mappo"],
)
def test_ctrl_c_stops_with_a_checkpoint_and_the_run_goes_on_as_if_nothing_happened(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    name = arguments[1]
    run = folder / f"{name}-stopped"
    with start(run, *arguments, *LARGE, "--steps", "4000000") as process:
        wait_for(has_iterations(run, 3), process)
        everyone = session_of(process)
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 130
        assert time.monotonic() - began < 3
        assert process.stderr is not None
        errors = process.stderr.read()
    assert f"matrpo launch --run {run} --resume" in errors
    assert "Traceback" not in errors
    assert survivors(everyone, within=2) == []
    last = RunDirectory.open(run).latest_common_iteration() + 2
    steps = ("--steps", str(2000 * last))
    assert last >= 4
    train(run, *arguments, *LARGE, *steps, "--resume")
    whole = train(folder / f"{name}-whole", *arguments, *LARGE, *steps)
    assert checkpoints(run, last) == checkpoints(whole, last)
    assert len(checkpoints(run, last)) == 2 * len(metrics(run))
    assert metrics(run) == metrics(whole)


def test_the_plain_lines_say_what_there_is(tmp_path: Path) -> None:
    done = matrpo("launch", "--run", tmp_path / "run", "--algo", "hatrpo", *SPREAD, *LARGE, "--steps", "4000")
    assert done.returncode == 0
    line = next(line for line in done.stderr.splitlines() if line.startswith("iteration 2/2"))
    words = ("steps 4,000", "return -", "kl 0.0", "entropy 1.", "critic 0.", "steps/s", "left 0:00")
    assert all(word in line for word in words)
    assert not any(word in line for word in CONSENSUS_WORDS)


def test_status_report_and_eval_read_it(happo: Path) -> None:
    shown = matrpo("status", happo, COLUMNS="100").stdout
    assert "navigation, 3 agents, happo, seed 0" in shown
    assert all(word in shown for word in ("training    critic", "explained variance", "entropy", "checkpoint of"))
    assert not any(word in shown for word in CONSENSUS_WORDS)

    summary = json.loads(matrpo("status", happo, "--json").stdout)
    assert not {"topology", "links", "absent"} & set(summary)
    assert (summary["finished"], summary["iteration"], summary["checkpoint"]) == (True, LAST, LAST)
    assert [process["name"] for process in summary["processes"]] == [
        "env-server", "trainer", "agent 0", "agent 1", "agent 2",
    ]  # fmt: skip

    report = json.loads(matrpo("report", happo, "--json").stdout)
    assert report == {str(happo): {"faults": [], "links": []}}
    result = json.loads(matrpo("eval", happo, "--episodes", "3", "--json").stdout)
    assert (result["episodes"], len(result["per_agent"])) == (3, 3)


def test_a_study_compares_it_with_matrpo(tmp_path: Path) -> None:
    """The base holds a setting that only one of them uses, and no number of agents."""
    base = {"task": "mpe2/simple_spread_v3", "num_envs": 4, "rollout_length": 25, "steps": 200, "beta": 0.01}
    variants = {"central": {"algo": "hatrpo"}, "clipped": {"algo": "happo"}, "ring": {}}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({"base": base, "variants": variants, "seeds": 1}, sort_keys=False))
    done = matrpo("study", file, "--out", tmp_path / "runs", "--jobs", 1)
    assert done.returncode == 0, done.stderr
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    rows = {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}
    assert rows["central"]["residual"] == rows["clipped"]["residual"] == "-"
    assert float(rows["ring"]["residual"]) > 0
    assert float(rows["central"]["KL"]) > 0
    assert (float(rows["central"]["Fisher products"]) > 0, rows["clipped"]["Fisher products"]) == (True, "-")
    result = json.loads((tmp_path / "runs" / "clipped_s0" / "study.json").read_text())
    assert result["consensus_residual"] is None
    assert result["explained_variance"] is not None

    picture = tmp_path / "curves.png"
    runs = tmp_path / "runs"
    done = matrpo("plot", f"HAPPO={runs / 'clipped_s0'}", f"MATRPO={runs / 'ring_s0'}", "--out", picture)
    assert done.returncode == 0, done.stderr
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"algo": "happo", "faults": "loss-20"}, ["variant odd", "happo trains in one"]),
        ({"algo": "hapo"}, ["'hapo'", "did you mean 'happo'"]),
    ],
)
def test_a_study_that_makes_no_sense_is_a_mistake(tmp_path: Path, changes: dict[str, str], words: list[str]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({"base": {}, "variants": {"odd": changes}, "seeds": 1}))
    done = matrpo("study", file, "--out", tmp_path / "runs")
    assert done.returncode == 2
    assert all(word in done.stderr for word in words)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--faults", "loss-20"], ["--faults", "happo trains in one process"]),
        (["--restart"], ["--restart", "happo trains in one process"]),
        (["--beta", "1"], ["happo does not use the setting 'beta'"]),
        (["--share-parameters", "--task", "mpe2/simple_speaker_listener_v4"], ["share_parameters", "differ"]),
        (["--num-envs", "0"], ["num_envs", "at least 1"]),
        (["--recurrent-layers", "1", "--rollout-length", "25"], ["chunk_length", "divisor of rollout_length, 25"]),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    done = matrpo("launch", "--run", tmp_path / "run", "--algo", "happo", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words)
    assert not (tmp_path / "run").exists()


def test_another_algorithm_cannot_go_on_with_it(happo: Path) -> None:
    done = matrpo("launch", "--run", happo, "--resume", "--algo", "mappo")
    assert done.returncode == 2
    assert "--resume cannot change 'algo'" in done.stderr
