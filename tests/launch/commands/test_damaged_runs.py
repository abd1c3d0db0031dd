"""Runs whose files were lost, damaged, swapped or edited by hand: one line from each command, and nothing deleted."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import Matrpo

from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import resolve
from matrpo.training import make_training

SMALL = {
    "agents": 2,
    "topology": "line",
    "num_envs": 2,
    "rollout_length": 5,
    "steps": 20,
    "hidden_sizes": 4,
    "checkpoint_every": 1,
    "admm_iterations": 4,
    "kl_decay": False,
    "tensorboard": False,
}


def trained(path: Path, **changes: Any) -> Path:
    """A run of two iterations, each with a checkpoint."""
    run = RunDirectory.create(path, resolve(("test", SMALL | changes)), {})
    make_training(run).run(lambda: False, lambda _: None)
    agents = {q: {"endpoint": f"ipc:///tmp/{q}", "neighbours": [1 - q]} for q in (0, 1)}
    cluster = {"run_id": f"{run.identity}-0", "config": "config.yaml", "environment": {"endpoint": "ipc:///tmp/x"}}
    (path / "cluster.yaml").write_text(yaml.safe_dump(cluster | {"agents": agents}))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    central = {"algo": "happo", "task": "game/miscoordination", "topology": "ring"}
    return {
        "run": trained(folder / "run"),
        "central": trained(folder / "central", **central),
        "other": trained(folder / "other", seed=7),
    }


@pytest.fixture
def run(made: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made["run"], tmp_path / "run"))


def content(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "log.txt"}


def resume(run: Path, *more: object) -> tuple[object, ...]:
    return ("launch", "--resume", "--run", run, "--in-process", "--steps", 30, *more)


def refused(matrpo: Matrpo, *arguments: object) -> str:
    """The one line of a refused command."""
    status, out, errors = matrpo(*arguments)
    assert (status, out, errors.count("\n")) == (2, "", 1), errors
    return errors


@pytest.mark.parametrize(
    ("name", "lost", "words"),
    [
        ("run", "env", "env-server has none; agents 0, 1 have 2"),
        ("run", "agents/0*", "agents 0, 1 have none; env-server has 2"),
        ("central", "env", "env-server has none; trainer and agents 0, 1 have 2"),
        ("central", "trainer", "trainer has none; env-server and agents 0, 1 have 2"),
        ("central", "agents/01", "agent 1 has none; env-server and trainer and agent 0 have 2"),
    ],
)
def test_nothing_is_deleted_that_cannot_be_replaced(
    matrpo: Matrpo, made: dict[str, Path], tmp_path: Path, name: str, lost: str, words: str
) -> None:
    run = Path(shutil.copytree(made[name], tmp_path / "run"))
    for path in run.glob(f"{lost}/checkpoint-*"):
        path.unlink()
    before = content(run)
    assert f"cannot resume {run}: " in (line := refused(matrpo, *resume(run)))
    assert words in line
    assert words in refused(matrpo, "eval", run)
    assert content(run) == before


def test_without_any_checkpoint_a_run_begins_anew(matrpo: Matrpo, run: Path) -> None:
    for path in run.glob("**/checkpoint-*"):
        path.unlink()
    assert "nothing to evaluate" in refused(matrpo, "eval", run)
    status, _, errors = matrpo(*resume(run))
    assert status == 0
    assert f"new run in {run}" in errors
    assert len((run / "env" / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("name", ["run", "central"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    matrpo: Matrpo, made: dict[str, Path], tmp_path: Path, name: str
) -> None:
    run = Path(shutil.copytree(made[name], tmp_path / "run"))
    path = run / "agents" / "01" / "checkpoint-000002.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    status, out, errors = matrpo("eval", run, "--episodes", 2, "--json")
    assert (status, json.loads(out)["iteration"]) == (0, 1)
    status, _, errors = matrpo(*resume(run))
    assert status == 0
    assert f"checkpoint {path} is damaged: its checksum is another one; going on from iteration 1 instead" in errors
    assert f"continuing after iteration 1 in {run}" in errors
    assert path.read_bytes() == data  # it was computed again


def test_a_run_whose_checkpoints_are_all_damaged_is_left_as_it_is(matrpo: Matrpo, run: Path) -> None:
    for path in run.glob("env/checkpoint-*.json"):
        path.write_bytes(b"{")
    before = content(run)
    line = refused(matrpo, *resume(run))
    assert "env-server has none; agents 0, 1 have 2" in line
    assert "checkpoint-000002.json is damaged" in line
    assert "is damaged" in refused(matrpo, "env-server", "--cluster", run / "cluster.yaml")
    assert content(run) == before


def test_what_another_run_has_left_is_refused(matrpo: Matrpo, made: dict[str, Path], run: Path) -> None:
    shutil.rmtree(run / "agents" / "01")
    shutil.copytree(made["other"] / "agents" / "01", run / "agents" / "01")
    before = content(run)
    words = f"checkpoint 2 of agent 1 in {run}/agents/01 is of run "
    for arguments in (resume(run), ("eval", run), ("agent", "--id", 1, "--cluster", run / "cluster.yaml")):
        line = refused(matrpo, *arguments)
        assert words in line
        assert "(seed 7), expected one of run " in line
    assert content(run) == before


def test_copied_and_moved_runs_go_on(matrpo: Matrpo, run: Path) -> None:
    copy = Path(shutil.copytree(run, run.with_name("copy")))
    moved = run.rename(run.with_name("moved"))
    for path in (copy, moved):
        assert matrpo(*resume(path))[0] == 0
    states = [(path / "agents" / "00" / "checkpoint-000003.safetensors").read_bytes() for path in (copy, moved)]
    assert states[0] == states[1]


@pytest.mark.parametrize(("command", "folder"), [(("agent", "--id", "0"), "agents/00"), (("env-server",), "env")])
def test_a_second_copy_of_a_process_is_refused(
    matrpo: Matrpo, run: Path, command: tuple[str, ...], folder: str
) -> None:
    before = content(run)
    with RunDirectory.open(run).server(0).lock(), RunDirectory.open(run).agent(0).lock():
        line = refused(matrpo, *command, "--cluster", run / "cluster.yaml")
    assert f"{run}/{folder} is in use: this process runs already" in line
    assert content(run) == before


@dataclasses.dataclass(frozen=True)
class Edit:
    """What somebody has done to one file of a run, and what the commands that read it say.

    Attributes:
        file: which.
        old: the text that is replaced, wherever it is; None: all of it.
        new: what stands there now.
        words: of the refusal.
        commands: that refuse.
    """

    file: str
    old: str | None
    new: str
    words: str
    commands: tuple[str, ...]


READING = ("resume", "status", "report")
EDITS = [
    Edit("config.yaml", "num_envs: 2", "num_envs: 4", "num_envs is 2, this run's is 4", ("resume", "agent", "server")),
    Edit("config.yaml", "num_envs: 2", "num_envs: 1e400", "'num_envs'", (*READING, "eval", "agent", "server")),
    Edit("config.yaml", "gamma: 0.95", "gamma: " + "9" * 400, "'gamma'", (*READING, "eval", "agent", "server")),
    Edit("config.yaml", "agents: 2", "agents: " + "9" * 40, "'agents'", (*READING, "eval", "agent", "server")),
    Edit("config.yaml", "seed: 0", "seed: .nan", "'seed'", (*READING, "eval", "agent", "server")),
    Edit("config.yaml", "seed: 0", "seed: 1", "seed is 0, this run's is 1", ("resume", "eval", "agent", "server")),
    Edit("config.yaml", None, "[]", "must hold a mapping", (*READING, "eval", "agent", "server")),
    Edit("config.yaml", "seed: 0", "seed: 2000-13-45", "is not valid YAML", (*READING, "eval", "agent", "server")),
    Edit("config.yaml", None, "[" * 1000, "is not valid YAML", (*READING, "eval", "agent", "server")),
    Edit("cluster.yaml", "run_id: ", "run_id: 1 #", "run_id must be text", ("agent", "server")),
    Edit("cluster.yaml", None, "3", "must hold exactly the keys", ("agent", "server")),
    Edit("env/metrics.jsonl", '"iteration": 2, ', "", "bad value None for 'iteration'", ("resume", "status")),
    Edit(
        "env/metrics.jsonl", '"iteration": 2', '"iteration": "2"', "bad value '2' for 'iteration'", ("resume", "status")
    ),
    Edit(
        "env/metrics.jsonl",
        '"steps": 20',
        '"steps": 1e400',
        "bad value inf for 'steps'",
        ("resume", "status", "plot", "server"),
    ),
    Edit("agents/00/metrics.jsonl", '"kl": ', '"kl": NaN, "x": ', "bad value nan for 'kl'", (*READING, "agent")),
    Edit("agents/00/metrics.jsonl", '"time": ', '"time": [], "x": ', "bad value [] for 'time'", READING),
    Edit("agents/00/metrics.jsonl", '"links": {', '"links": {"x": 1, ', "for 'links'", READING),
    Edit(
        "agents/00/faults.jsonl",
        None,
        '{"event": "begins", "fault": 1e400}\n',
        "bad value inf for 'fault'",
        ("report",),
    ),
    Edit("agents/00/faults.jsonl", None, '{"fault": 0, "iteration": 1}\n', "for 'event'", ("report",)),
    Edit("agents/00/incarnation.json", None, '{"incarnation": 1e400, "run_id": ""}', "'incarnation'", ("agent",)),
    Edit("agents/00/incarnation.json", None, '{"incarnation": -1, "run_id": ""}', "'incarnation'", ("agent",)),
    Edit("env/incarnation.json", None, '{"incarnation": "1", "run_id": ""}', "'incarnation'", ("server",)),
    Edit("env/incarnation.json", None, "[1]", "incarnation.json is damaged", ("server",)),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: f"{edit.file} {edit.new[:24]}")
def test_a_file_that_was_edited_by_hand_gives_one_line(matrpo: Matrpo, run: Path, edit: Edit) -> None:
    path = run / edit.file
    text = "" if edit.old is None else path.read_text()
    path.write_text(edit.new if edit.old is None else text.replace(edit.old, edit.new))
    assert path.read_text() != text
    before = content(run)
    lines = {
        "resume": resume(run),
        "status": ("status", run),
        "report": ("report", run),
        "plot": ("plot", f"a={run}", "--out", run / "plot.svg"),
        "eval": ("eval", run, "--episodes", 1),
        "agent": ("agent", "--id", 0, "--cluster", run / "cluster.yaml"),
        "server": ("env-server", "--cluster", run / "cluster.yaml"),
    }
    for name in edit.commands:
        assert edit.words in refused(matrpo, *lines[name])
    assert content(run) == before


OLD = {
    "env/checkpoint-000002.json": (
        '"stream": 0',
        ['"stream": 1e400', '"stream": -1', '"stream": "0"', '"stream": null'],
    ),
    "agents/01/checkpoint-000002.json": (
        '"belongs_to": {',
        ['"belongs_to": 1, "x": {', '"belongs_to": {"algo": NaN, "x": 1, '],
    ),
}
"""Changes to checkpoints without checksums, as earlier versions wrote them."""


@pytest.mark.parametrize(
    ("file", "old", "new"), [(file, old, new) for file, (old, news) in OLD.items() for new in news]
)
def test_a_checkpoint_without_checksums_that_was_edited_gives_one_line(
    matrpo: Matrpo, run: Path, file: str, old: str, new: str
) -> None:
    for path in (*run.glob("**/origin-*"), *run.glob("**/checkpoint-000001.*")):
        path.unlink()
    text = (run / file).read_text()
    (run / file).write_text(text.replace(old, new).replace('"algo": NaN, "x": 1, "algo"', '"algo": NaN, "x"'))
    assert (run / file).read_text() != text
    before = content(run)
    refused(matrpo, *resume(run))
    assert content(run) == before


@pytest.mark.parametrize("name", ["run", "central"])
def test_a_run_of_an_earlier_version_goes_on_to_the_same_bits(
    matrpo: Matrpo, made: dict[str, Path], tmp_path: Path, name: str
) -> None:
    old, new = (Path(shutil.copytree(made[name], tmp_path / which)) for which in ("old", "new"))
    for path in old.glob("**/origin-*"):
        path.unlink()
    for run in (old, new):
        assert matrpo(*resume(run))[0] == 0
        assert matrpo("eval", run, "--episodes", 2)[0] == 0
    for path in new.glob("**/checkpoint-000003.*"):
        assert (old / path.relative_to(new)).read_bytes() == path.read_bytes()
