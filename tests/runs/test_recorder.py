from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from matrpo.consensus.peer import Peer
from matrpo.runs.event_file import EventFile
from matrpo.runs.recorder import Connection, PhaseClock, Recorder, Traffic, agent_metrics
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import Config, GraphConsensusSettings
from matrpo.settings.sections import ConnectionSettings
from matrpo.spaces import Discrete, TaskSpec
from matrpo.topology import make_graph

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


def test_phase_clock_gives_each_iteration_its_own_share() -> None:
    times = iter([0.0, 2.0, 5.0, 6.0, 10.0, 14.0])
    clock = PhaseClock(lambda: next(times))
    with clock.phase("rollout"):
        pass
    with clock.phase("rollout"):
        pass
    assert clock.take({"sent": 5}) == {"sent": 5, "seconds_rollout": 3.0}
    with clock.phase("finish"):
        pass
    assert clock.take({"sent": 7}) == {"sent": 2, "seconds_finish": 4.0}


def test_waiting_counts_for_no_phase() -> None:
    times, waits = iter([0.0, 9.0, 9.0, 11.0]), iter([1.0, 4.0, 4.0, 4.5])
    clock = PhaseClock(lambda: next(times), lambda: next(waits))
    with clock.phase("rollout"):
        pass
    with clock.phase("consensus"):
        pass
    assert clock.take({}) == {"seconds_rollout": 6.0, "seconds_waiting": 3.5, "seconds_consensus": 1.5}


def test_processor_time_counts_for_its_phase_and_for_the_whole_iteration() -> None:
    used = iter([1.0, 2.0, 5.0, 7.0, 7.0, 7.5, 8.0])
    clock = PhaseClock(lambda: 0.0, used=lambda: next(used))
    with clock.phase("rollout"):
        pass
    assert clock.take({}) == {"seconds_rollout": 0.0, "cpu_seconds_rollout": 3.0, "cpu_seconds": 6.0}
    with clock.phase("finish"):
        pass
    assert clock.take({}) == {"seconds_finish": 0.0, "cpu_seconds_finish": 0.5, "cpu_seconds": 1.0}


def test_an_agents_line_says_what_happened_on_each_link_and_on_all() -> None:
    graph = make_graph("line", 3, 0)
    peer = Peer(1, graph, 0, GraphConsensusSettings(beta=0.01, admm_iterations=4), ConnectionSettings())
    clock = PhaseClock()
    traffic = {0: Traffic(bytes_sent=5), 2: Traffic(bytes_sent=7, refused=Counter({"malformed": 2}))}
    connections = {0: Connection("up", (1.0, 2.0)), 2: Connection("down", None)}
    peer.link_counters[0].skips = 3
    peer.link_counters[1].drops["late"] = 1
    line = agent_metrics({"kl": 0.5}, peer, clock, traffic, connections, {"malformed": 4})
    assert (line["kl"], line["bytes_sent"], line["skips"], line["rejected"]) == (0.5, 12, 3, 3)
    assert line["refused"] == {"malformed": 4}
    own = line["links"]["0"]
    assert (own["bytes_sent"], own["skips"], own["state"], own["rtt_ms_min"], own["rtt_ms_median"]) == (
        5,
        3,
        "up",
        1,
        2,
    )
    other = line["links"]["2"]
    assert (other["rejected"], other["state"], other["rtt_ms_min"]) == ({"late": 1, "malformed": 2}, "down", None)
    traffic[0].bytes_sent = 6
    line = agent_metrics({"kl": 0.5}, peer, clock, traffic, connections, {"malformed": 4})
    assert (line["bytes_sent"], line["links"]["0"]["bytes_sent"], line["rejected"]) == (1, 1, 0)
    json.dumps(line)
