"""What a checkpoint says of itself: whether it is whole, and of which run, process and settings it is."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrpo.errors import ConfigError
from matrpo.runs.process_directory import DamagedCheckpointError
from matrpo.runs.process_id import ProcessId
from matrpo.runs.recorder import Recorder
from matrpo.runs.resume_point import ResumePoint
from matrpo.runs.run_config import run_config
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import Config
from matrpo.spaces import Discrete, TaskSpec

CONFIG = run_config(Config(agents=3, topology="ring", num_envs=2, rollout_length=5, tensorboard=False))
SPEC = TaskSpec("navigation", ("a", "b", "c"), (3, 3, 3), (Discrete(5), Discrete(5), Discrete(5)))
FILES = ("checkpoint-000004.safetensors", "checkpoint-000004.json", "origin-000004.json")
SERVER, AGENT = ProcessId.server(), ProcessId.agent(1)


def create(path: Path, **changes: Any) -> RunDirectory:
    """A run whose processes have the checkpoints 2 and 4."""
    run = RunDirectory.create(path, dataclasses.replace(CONFIG, checkpoint_every=2, **changes), {})
    write(run, *run.processes())
    return run


def write(run: RunDirectory, *processes: ProcessId) -> None:
    for process in processes:
        recorder = Recorder(run, run.directory(process), SPEC)
        for iteration in range(1, 5):
            recorder.record(iteration, {}, ({"x": np.full(3, iteration)}, {"stream": 0}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create(tmp_path_factory.mktemp("made") / "run").path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunDirectory:
    return RunDirectory.open(Path(shutil.copytree(made, tmp_path / "run")))


def flip(path: Path, position: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@settings(max_examples=50)
@given(st.sampled_from(FILES), st.integers(0, 2**20), st.integers(0, 7))
def test_one_flipped_bit_in_any_file_is_noticed_and_the_file_named(made: Path, name: str, at: int, bit: int) -> None:
    directory = RunDirectory.open(made).directory(AGENT)
    path = directory.path / name
    before = path.read_bytes()
    changed = bytearray(before)
    changed[at % len(before)] ^= 1 << bit
    if name == FILES[2] and _same_json(before, bytes(changed)):
        return
    path.write_bytes(changed)
    try:
        with pytest.raises(DamagedCheckpointError, match=r"agents/01/(checkpoint|origin)-000004.* is damaged"):
            directory.load_checkpoint(4)
    finally:
        path.write_bytes(before)


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


@pytest.mark.parametrize("name", FILES[:2])
def test_what_was_cut_off_or_renamed_is_damaged(run: RunDirectory, name: str) -> None:
    directory = run.directory(AGENT)
    path = directory.path / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedCheckpointError, match=f"{name} is damaged"):
        directory.load_checkpoint(4)
    for suffix in (".safetensors", ".json"):
        shutil.copy(directory.path / f"checkpoint-000002{suffix}", directory.path / f"checkpoint-000007{suffix}")
    with pytest.raises(DamagedCheckpointError, match=r"000007\.json is damaged: it is of iteration 2"):
        directory.load_checkpoint(7)


def test_the_files_of_a_checkpoint_come_and_go_together(run: RunDirectory) -> None:
    run.rewind(2)
    run.agent(0).prune(1)
    names = {path.name for path in run.agent(0).path.glob("*-0*")}
    assert names == {"checkpoint-000002.safetensors", "checkpoint-000002.json", "origin-000002.json"}


def test_equal_states_have_equal_files_whatever_the_run(made: Path, tmp_path: Path) -> None:
    other = create(tmp_path / "other")
    for name in FILES[:2]:
        assert (made / "env" / name).read_bytes() == (other.path / "env" / name).read_bytes()


@pytest.mark.parametrize("process", [SERVER, AGENT])
@pytest.mark.parametrize("name", FILES)
def test_a_run_resumes_where_all_checkpoints_are_whole(run: RunDirectory, process: ProcessId, name: str) -> None:
    path = run.directory(process).path / name
    flip(path, 3)
    point = run.resume_point()
    assert point == ResumePoint(2, {}, point.damaged)
    [line] = point.damaged
    assert f"{path} is damaged" in line


def test_without_a_whole_common_checkpoint_it_is_said_who_has_what(run: RunDirectory) -> None:
    assert run.resume_point(laggards=False).refusal == ""
    for path in run.env.path.glob("checkpoint-*"):
        path.unlink()
    flip(run.agent(2).path / FILES[0])
    assert run.resume_point().iteration == 0
    assert run.resume_point().refusal == "env-server has none; agents 0 to 2 have 4"
    for path in run.agent(1).path.glob("checkpoint-*"):
        path.unlink()
    assert run.resume_point().refusal == "env-server and agent 1 have none; agents 0, 2 have 4"
    write(run, SERVER)
    for name in ("checkpoint-000002.json", "checkpoint-000004.json"):
        (run.agent(0).path / name).write_bytes(b"{")
        (run.agent(2).path / name).write_bytes(b"{")
    refusal = run.resume_point().refusal
    assert refusal.startswith("agents 0 to 2 have none; env-server has 4; checkpoint ")
    assert refusal.count("is damaged") == 4


def test_central_training_needs_the_checkpoint_of_everybody(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", Config(algo="happo", agents=3, checkpoint_every=2), {})
    write(run, *run.processes())
    assert run.resume_point() == ResumePoint(4, {})
    for path in run.trainer.path.glob("checkpoint-*"):
        path.unlink()
    assert run.resume_point().refusal == "trainer has none; env-server and agents 0 to 2 have 4"


@pytest.mark.parametrize(
    ("iteration", "orphan", "words"),
    [(2, False, ""), (3, False, "env-server has none"), (2, True, "env-server has none")],
)
def test_a_run_that_was_killed_before_the_first_checkpoint_of_all_begins_anew(
    tmp_path: Path, iteration: int, orphan: bool, words: str
) -> None:
    """Unless the server has lost its own: it was beyond the first, or the origin of one is still there."""
    run = RunDirectory.create(tmp_path / "run", dataclasses.replace(CONFIG, checkpoint_every=2), {})
    for process in run.processes():
        recorder = Recorder(run, run.directory(process), SPEC)
        recorder.record(1, {}, ({}, {}))
        if not process.is_server:
            recorder.save()
    for later in range(2, iteration + 1):
        run.env.log_metrics({"iteration": later})
    if orphan:
        (run.env.path / "origin-000001.json").write_text("{}")
    else:
        run.env.save_checkpoint(2, {}, {}, {})
        (run.env.path / "checkpoint-000002.json").unlink()  # it was killed while it wrote the checkpoint
    point = run.resume_point()
    assert (point.iteration, bool(point.refusal), words in point.refusal) == (0, bool(words), True)


def test_every_environment_server_must_have_its_checkpoint(tmp_path: Path) -> None:
    run = create(tmp_path / "run", env_servers=2)
    assert run.resume_point() == ResumePoint(4, {})
    (run.server(1).path / "checkpoint-000004.json").unlink()
    assert run.resume_point() == ResumePoint(2, {})
    (run.server(1).path / "checkpoint-000002.json").unlink()
    assert run.resume_point().refusal == "env-server 1 has none; env-server and agents 0 to 2 have 4"


def test_a_late_agent_goes_on_from_its_newest_that_is_whole(run: RunDirectory) -> None:
    for name in ("checkpoint-000004.json", "checkpoint-000002.json"):
        (run.agent(0).path / name).unlink()
    (run.agent(1).path / "checkpoint-000004.json").unlink()
    flip(run.agent(1).path / "checkpoint-000002.safetensors")
    point = run.resume_point()
    assert (point.iteration, point.laggards) == (4, {0: 0, 1: 0})
    assert len(point.damaged) == 1


def test_a_process_by_itself_takes_its_newest_that_is_whole_and_says_so(
    run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    assert run.newest_checkpoint(AGENT) == 4
    flip(run.directory(AGENT).path / FILES[0])
    with caplog.at_level(logging.WARNING):
        assert run.newest_checkpoint(AGENT) == 2
    assert "checkpoint-000004.safetensors is damaged" in caplog.text
    assert "going on from that of iteration 2" in caplog.text
    flip(run.directory(AGENT).path / "checkpoint-000002.json")
    with pytest.raises(ConfigError, match=r"is damaged.*; agent 1 has no older one"):
        run.newest_checkpoint(AGENT)
    assert run.newest_checkpoint(ProcessId.server(1)) == 0


def test_a_checkpoint_of_another_run_is_refused(made: Path, tmp_path: Path) -> None:
    run = create(tmp_path / "other", seed=7)
    run.check_checkpoints(4, SPEC)
    shutil.copytree(made / "agents" / "01", run.agent(1).path, dirs_exist_ok=True)
    whose = rf"checkpoint 4 of agent 1 in {run.agent(1).path} is of run [0-9a-f]{{8}} \(seed 0\)"
    words = rf"{whose}, expected one of run {run.identity} \(seed 7\)"
    with pytest.raises(ConfigError, match=words):
        run.newest_checkpoint(AGENT)
    for known in (run, RunDirectory.open(run.path)):
        with pytest.raises(ConfigError, match=words):
            known.check_checkpoints(4, SPEC)


def test_one_that_does_not_say_of_which_run_it_is_fits_a_run_that_does_not_either(run: RunDirectory) -> None:
    """Checkpoints of earlier versions have no origin."""
    identity = RunDirectory.open(run.path)
    identity.check_checkpoints(4, SPEC)
    (run.agent(1).path / FILES[2]).unlink()
    with pytest.raises(ConfigError, match=r"agent 1 .* is of an unknown run, expected one of run"):
        run.check_checkpoints(4, SPEC)
    with pytest.raises(ConfigError, match=r"agent 1 .* is of an unknown run, expected one of run"):
        RunDirectory.open(run.path, identity.identity).newest_checkpoint(AGENT)
    for path in run.path.glob("**/origin-*"):
        path.unlink()
    old = RunDirectory.open(run.path)
    old.check_checkpoints(4, SPEC)
    assert (old.identity, old.newest_checkpoint(AGENT)) == (None, 4)
    write(create(run.path.parent / "new"), AGENT)
    shutil.copytree(run.path.parent / "new" / "agents" / "01", run.agent(1).path, dirs_exist_ok=True)
    with pytest.raises(ConfigError, match=r"agent 1 .* is of run .*, expected one of an unknown run"):
        RunDirectory.open(run.path).check_checkpoints(4, SPEC)


def test_a_checkpoint_of_another_process_or_of_other_settings_is_refused(run: RunDirectory) -> None:
    shutil.copytree(run.agent(0).path, run.agent(1).path, dirs_exist_ok=True)
    with pytest.raises(ConfigError, match="its process is agents/00, this run's is agents/01"):
        run.newest_checkpoint(AGENT)
    file = run.path / "config.yaml"
    file.write_text(
        file.read_text().replace("gamma: 0.95", "gamma: 0.9").replace("torch_threads: 1", "torch_threads: 2")
    )
    with pytest.raises(ConfigError, match=r"checkpoint 4 of env-server in .* its gamma is 0\.95, this run's is 0\.9"):
        RunDirectory.open(run.path).newest_checkpoint(SERVER)


@pytest.mark.parametrize("value", ["1e400", "-1", "0.5", "true", "null", '"1"', "[]", "9007199254740992"])
def test_bad_numbers_of_starts_and_streams_are_named(run: RunDirectory, value: str) -> None:
    (run.env.path / "incarnation.json").write_text(f'{{"incarnation": {value}, "run_id": "x"}}')
    with pytest.raises(ConfigError, match=r"incarnation\.json is damaged"):
        run.env.begin_incarnation("x")
    (run.env.path / FILES[1]).write_text(f'{{"iteration": 4, "stream": {value}}}')
    with pytest.raises(ConfigError, match=r"env/checkpoint-000004\.json is damaged: bad value .* for 'stream'"):
        run.episode_stream(4)


def test_a_folder_is_locked_by_one_process_at_a_time(run: RunDirectory) -> None:
    with (
        run.agent(0).lock(),
        run.agent(1).lock(),
        pytest.raises(ConfigError, match="agents/00 is in use"),
        run.agent(0).lock(),
    ):
        raise AssertionError
    with run.agent(0).lock():
        pass
