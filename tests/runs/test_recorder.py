from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from matrpo.runs.event_file import EventFile
from matrpo.runs.recorder import Recorder
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import Config
from matrpo.spaces import Discrete, TaskSpec

CONFIG = Config(agents=1, topology="none", num_envs=2, rollout_length=5, steps=100, checkpoint_every=4)
SPEC = TaskSpec("navigation", ("a",), (3,), (Discrete(5),))


def make_recorder(path: Path, **changes: object) -> tuple[Recorder, RunDirectory]:
    run = RunDirectory.create(path / "run", dataclasses.replace(CONFIG, **changes), {})  # type: ignore[arg-type]
    return Recorder(run, run.agent(0), SPEC), run


def record(recorder: Recorder, iterations: range) -> None:
    for iteration in iterations:
        recorder.record(iteration, {"kl": iteration / 8}, ({"x": np.array([iteration])}, {"i": iteration}))


def test_checkpoints_are_written_when_due_and_at_the_end(tmp_path: Path) -> None:
    recorder, run = make_recorder(tmp_path, checkpoints_kept=9)
    record(recorder, range(1, 11))
    assert run.agent(0).checkpoint_iterations() == [4, 8, 10]
    assert [line["steps"] for line in run.agent(0).read_metrics()] == list(range(10, 101, 10))


def test_save_writes_the_last_two_states(tmp_path: Path) -> None:
    recorder, run = make_recorder(tmp_path)
    recorder.save()
    assert run.agent(0).checkpoint_iterations() == []
    record(recorder, range(1, 8))
    recorder.save()
    assert run.agent(0).checkpoint_iterations() == [4, 6, 7]
    arrays, meta = run.agent(0).load_checkpoint(6)
    assert arrays["x"].tolist() == [6]
    assert meta["i"] == 6
    assert meta["belongs_to"]["task"] == "navigation"


def test_a_recorded_state_is_a_copy(tmp_path: Path) -> None:
    recorder, run = make_recorder(tmp_path)
    x = np.zeros(2)
    recorder.record(1, {}, ({"x": x}, {}))
    x += 1
    recorder.save()
    assert run.agent(0).load_checkpoint(1)[0]["x"].tolist() == [0, 0]


@pytest.mark.parametrize(("kept", "expected"), [(1, [4, 8]), (2, [4, 8]), (3, [4, 8])])
def test_at_least_two_checkpoints_are_kept(tmp_path: Path, kept: int, expected: list[int]) -> None:
    recorder, run = make_recorder(tmp_path, checkpoints_kept=kept)
    record(recorder, range(1, 10))
    assert run.agent(0).checkpoint_iterations() == expected


def test_tensorboard_reads_what_is_recorded(tmp_path: Path) -> None:
    recorder, run = make_recorder(tmp_path)
    recorder.record(1, {"kl": 0.5, "drops": 3, "by": {"a": 1.5, "b": None}, "none": None}, ({}, {}))
    recorder.record(2, {"kl": 0.25}, ({}, {}))
    events = EventAccumulator(str(run.path / "tensorboard" / "agent-00"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"losses/approx_kl", "details/drops", "details/by/a"}
    assert [(event.step, event.value) for event in events.Scalars("losses/approx_kl")] == [(10, 0.5), (20, 0.25)]


def test_tensorboard_forgets_what_a_resumed_run_repeats(tmp_path: Path) -> None:
    first = EventFile(tmp_path)
    for step in (10, 20, 30):
        first.add(step, {"x": 1.0})
    EventFile(tmp_path, first_step=20).add(20, {"x": 2.0})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("x")] == [(10, 1.0), (20, 2.0)]
