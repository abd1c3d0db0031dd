"""Algorithms that train all agents in one process: real runs, and the commands that read what these leave."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from marks import slow
from running import (
    LAST,
    TINY,
    Matrpo,
    checkpoints,
    has_iterations,
    metrics,
    session_of,
    start,
    survivors,
    train,
    wait_for,
)

from matrpo.experiments.pages.report import report
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import resolve
from matrpo.training import make_training

SPREAD = {"task": "mpe2/simple_spread_v3", "agents": 3}
LARGE = {**TINY, "num_envs": 20, "rollout_length": 50, "steps": 4_000_000}
"""1000 samples an iteration: slow enough to be interrupted."""

CONSENSUS_WORDS = ("residual", "sent", "links", "ring", "absent")


def train_here(path: Path, **settings: object) -> Path:
    """Train to the end in this process."""
    run = RunDirectory.create(path, resolve(("test", {**TINY, **SPREAD, **settings})), {})
    make_training(run).run(lambda: False, lambda _: None)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def hatrpo(folder: Path) -> Path:
    return train_here(folder / "hatrpo", algo="hatrpo")


def test_a_launched_run_is_complete_and_is_in_process_anyway(folder: Path, hatrpo: Path) -> None:
    launched = train(folder / "launched", "--algo", "hatrpo", "--task", SPREAD["task"], "--in-process")
    lines = metrics(launched)
    assert set(lines) == {f"{name}/metrics.jsonl" for name in ("env", "trainer", *(f"agents/0{i}" for i in range(3)))}
    assert all([line["iteration"] for line in its] == list(range(1, LAST + 1)) for its in lines.values())
    assert not (launched / "cluster.yaml").exists()
    assert not (launched / "keys").exists()
    assert len(checkpoints(launched)) == 2 * len(lines)
    assert (checkpoints(launched), lines) == (checkpoints(hatrpo), metrics(hatrpo))


@pytest.mark.parametrize(
    "changes",
    [{"algo": "happo", "recurrent_layers": 1}, slow({"algo": "hatrpo"})],
    ids=str,
)
def test_ctrl_c_stops_with_a_checkpoint_and_the_run_goes_on_as_if_nothing_happened(
    folder: Path, changes: dict[str, object]
) -> None:
    run = folder / f"{changes['algo']}-stopped"
    given = [f"--{key.replace('_', '-')}={value}" for key, value in {**LARGE, **SPREAD, **changes}.items()]
    with start(run, *given) as process:
        wait_for(has_iterations(run, 3), process)
        everyone = session_of(process)
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 130
        assert time.monotonic() - began < 4
        assert process.stderr is not None
        errors = process.stderr.read()
    assert f"matrpo launch --run {run} --resume" in errors
    assert "Traceback" not in errors
    assert survivors(everyone, within=2) == []
    last = RunDirectory.open(run).latest_common_iteration() + 2
    assert last >= 4
    steps = 1000 * last
    train(run, *given, "--steps", str(steps), "--resume")
    whole = train_here(folder / f"{changes['algo']}-whole", **{**LARGE, **changes, "steps": steps})
    assert checkpoints(run, last) == checkpoints(whole, last)
    assert len(checkpoints(run, last)) == 2 * len(metrics(run))
    assert metrics(run) == metrics(whole)


def test_status_says_what_there_is_and_nothing_else(matrpo: Matrpo, hatrpo: Path) -> None:
    status, shown, _ = matrpo("status", hatrpo)
    assert status == 0
    assert "mpe2/simple_spread_v3, 3 agents, hatrpo, seed 0" in shown
    words = ("training    critic", "explained variance", "KL", "entropy", "Fisher", f"checkpoint of iteration {LAST}")
    assert all(word in shown for word in words)
    assert not any(word in shown for word in CONSENSUS_WORDS)


def test_status_as_json(matrpo: Matrpo, hatrpo: Path) -> None:
    summary = json.loads(matrpo("status", hatrpo, "--json")[1])
    assert not {"topology", "links", "absent"} & set(summary)
    assert (summary["finished"], summary["iteration"], summary["checkpoint"]) == (True, LAST, LAST)
    names = ["env-server", "trainer", "agent 0", "agent 1", "agent 2"]
    assert [process["name"] for process in summary["processes"]] == names


def test_it_is_reported_on_and_evaluated(matrpo: Matrpo, hatrpo: Path) -> None:
    reported = CliRunner().invoke(report, [str(hatrpo), "--json"], catch_exceptions=False)
    assert json.loads(reported.stdout) == {str(hatrpo): {"faults": [], "links": []}}
    status, out, _ = matrpo("eval", hatrpo, "--episodes", "3", "--json")
    result = json.loads(out)
    assert (status, result["episodes"], len(result["per_agent"])) == (0, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--faults", "loss-20"], ["--faults", "happo trains in one process"]),
        (["--restart"], ["--restart", "happo trains in one process"]),
        (["--beta", "1"], ["happo does not use the setting 'beta'"]),
        (["--share-parameters", "--task", "mpe2/simple_speaker_listener_v4"], ["share_parameters", "differ"]),
        (["--num-envs", "0"], ["num_envs", "at least 1"]),
        (["--recurrent-layers", "1", "--rollout-length", "25"], ["chunk_length", "divisor of rollout_length, 25"]),
        (["--algo", "nowhere.py:Mine"], ["there is no file", "nowhere.py"]),
        (["--algo", "nowhere.py"], ["name the class too, as in nowhere.py:Mine"]),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    matrpo: Matrpo, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    status, out, errors = matrpo("launch", "--run", tmp_path / "run", "--algo", "happo", *arguments)
    assert (status, out, errors.count("\n")) == (2, "", 1)
    assert all(word in errors for word in words)
    assert not (tmp_path / "run").exists()


def test_another_algorithm_cannot_go_on_with_it(matrpo: Matrpo, hatrpo: Path) -> None:
    status, _, errors = matrpo("launch", "--run", hatrpo, "--resume", "--algo", "mappo")
    assert status == 2
    assert "--resume cannot change 'algo'" in errors
