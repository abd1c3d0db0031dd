from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from matrpo.errors import ConfigError
from matrpo.runs.process_directory import Incarnation, MetricsTail, ProcessDirectory
from matrpo.runs.run_config import run_config
from matrpo.runs.run_directory import ResumePoint, RunDirectory, identity
from matrpo.runs.storage import StorageError
from matrpo.settings.config import Config, resolve
from matrpo.spaces import Discrete, TaskSpec

CONFIG = run_config(Config(agents=2, topology="line", hidden_sizes=(8,)))
SPEC = TaskSpec("navigation", ("a", "b"), (3, 3), (Discrete(5), Discrete(5)))
ARRAYS = {
    "scalar": np.array(7, dtype=np.int64),
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "flags": np.array([True, False]),
    "state": np.array([2**63 + 1], dtype=np.uint64),
}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", CONFIG, {"matrpo": "1.2.3"})


def test_create_then_open_gives_the_same_settings(run: RunDirectory) -> None:
    assert RunDirectory.open(run.path).config == CONFIG
    assert "# matrpo 1.2.3" in (run.path / "config.yaml").read_text()
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml"]


def test_what_depends_on_the_task_and_on_the_graph_is_known_once_there_is_a_run(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", Config(), {})
    config = run.decentralized
    assert (run.num_agents, config.agents, config.admm_iterations) == (12, 12, 456)
    assert config.beta == pytest.approx(0.035)


def test_what_somebody_has_removed_from_the_file_is_resolved_again(run: RunDirectory) -> None:
    file = run.path / "config.yaml"
    file.write_text("".join(line for line in file.open() if not line.startswith(("beta", "admm_iterations"))))
    assert RunDirectory.open(run.path).decentralized == CONFIG


def test_the_settings_of_a_run_that_is_trained_centrally_are_not_of_a_decentralised_one(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", Config(algo="happo", agents=3), {})
    with pytest.raises(ConfigError, match="is of happo, which trains in one process"):
        run.decentralized  # noqa: B018


def test_default_name_says_what_runs_and_never_collides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = resolve(("test", {"agents": 3, "task": "mpe2/simple_spread_v3", "topology": "grid:1x3", "seed": 4}))
    names = [RunDirectory.create(None, config, {}).path.name for _ in range(3)]
    assert names[0].endswith("_mpe2-simple_spread_v3_matrpo_grid-1x3-3_s4")
    assert names[1:] == [names[0] + "-2", names[0] + "-3"]


def test_an_existing_directory_is_refused_and_untouched(run: RunDirectory) -> None:
    before = (run.path / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match="exists already: add --resume"):
        RunDirectory.create(run.path, CONFIG, {})
    assert (run.path / "config.yaml").read_bytes() == before


def test_whatever_is_there_is_refused_and_left(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "empty", tmp_path / "file", Path("."), Path("/")):
        with pytest.raises(ConfigError, match="exists already"):
            RunDirectory.create(path, CONFIG, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_a_run_that_is_killed_as_it_begins_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(RunDirectory, "store_config", killed)
    with pytest.raises(Killed):
        RunDirectory.create(tmp_path / "run", CONFIG, {})
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert (RunDirectory.create(tmp_path / "run", CONFIG, {}).path / "config.yaml").is_file()


@pytest.mark.parametrize("parent", ["/proc/no", "/dev/null"])
def test_a_place_that_cannot_be_written_is_a_mistake_of_the_user(parent: str) -> None:
    with pytest.raises(ConfigError, match="cannot create run directory"):
        RunDirectory.create(Path(parent) / "run", CONFIG, {})


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_found_at_once_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot create run directory .*File too large"):
        RunDirectory.create(tmp_path / "a" / "b", CONFIG, {})
    assert list(tmp_path.iterdir()) == []


def test_open_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run directory"):
        RunDirectory.open(tmp_path)
    (tmp_path / "config.yaml").write_text("agents: null\n")
    with pytest.raises(ConfigError, match="number of agents"):
        RunDirectory.open(tmp_path)


def test_checkpoints_round_trip(run: RunDirectory) -> None:
    run.agent(1).save_checkpoint(120, ARRAYS, {"note": [1, "x"]})
    arrays, meta = run.agent(1).load_checkpoint(120)
    assert meta == {"iteration": 120, "note": [1, "x"]}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
    names = sorted(path.name for path in run.agent(1).path.iterdir())
    assert names == ["checkpoint-000120.json", "checkpoint-000120.safetensors"]


def test_a_state_without_arrays_can_be_saved(run: RunDirectory) -> None:
    run.env.save_checkpoint(1, {}, {})
    assert run.env.load_checkpoint(1)[0] == {}


def test_only_complete_pairs_count(run: RunDirectory) -> None:
    process = run.agent(0)
    for iteration in (1, 2, 3):
        process.save_checkpoint(iteration, ARRAYS, {})
    (process.path / "checkpoint-000002.safetensors").unlink()
    (process.path / "checkpoint-000003.json").unlink()
    assert process.checkpoint_iterations() == [1]


def test_prune_keeps_the_last(run: RunDirectory) -> None:
    for iteration in (1, 5, 10):
        run.env.save_checkpoint(iteration, {}, {})
    run.env.prune(2)
    assert run.env.checkpoint_iterations() == [5, 10]


def test_latest_common_iteration(run: RunDirectory) -> None:
    assert run.latest_common_iteration() == 0
    for process, iterations in zip(run.processes().values(), ((8, 9, 10), (8, 9), (9, 10)), strict=True):
        for iteration in iterations:
            process.save_checkpoint(iteration, {}, {})
    assert run.latest_common_iteration() == 9


@pytest.mark.parametrize(
    ("env", "first", "second", "expected"),
    [
        ((), (), (), ResumePoint(0, {})),
        ((8, 9), (8, 9), (8,), ResumePoint(8, {})),
        ((80, 90), (80, 90), (10, 20), ResumePoint(90, {1: 20})),
        ((80, 90), (90,), (), ResumePoint(90, {1: 0})),
        ((80, 90), (80,), (10,), ResumePoint(80, {1: 10})),
        ((80, 90), (), (), ResumePoint(0, {})),
        ((80,), (90,), (10,), ResumePoint(0, {})),
    ],
)
def test_a_run_resumes_where_most_can(
    run: RunDirectory, env: tuple[int, ...], first: tuple[int, ...], second: tuple[int, ...], expected: ResumePoint
) -> None:
    for process, iterations in zip(run.processes().values(), (env, first, second), strict=True):
        for iteration in iterations:
            process.save_checkpoint(iteration, {}, {})
    assert run.resume_point() == expected


def test_a_process_counts_its_starts(run: RunDirectory) -> None:
    assert run.env.begin_incarnation("a") == Incarnation(1, returns=False)
    assert run.env.begin_incarnation("a") == Incarnation(2, returns=True)
    assert run.env.begin_incarnation("b") == Incarnation(3, returns=False)
    assert run.env.begin_incarnation("b", at_least=3) == Incarnation(4, returns=True)
    assert run.env.begin_incarnation("b", at_least=9) == Incarnation(9, returns=True)
    assert run.agent(0).begin_incarnation("b") == Incarnation(1, returns=False)
    (run.env.path / "incarnation.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"incarnation\.json is damaged"):
        run.env.begin_incarnation("b")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff"])
def test_damaged_checkpoints_are_named(run: RunDirectory, damage: bytes) -> None:
    run.env.save_checkpoint(1, ARRAYS, {})
    (run.env.path / "checkpoint-000001.safetensors").write_bytes(damage)
    with pytest.raises(ConfigError, match=r"checkpoint .*checkpoint-000001.* is damaged"):
        run.env.load_checkpoint(1)
    (run.env.path / "checkpoint-000001.json").write_bytes(damage)
    with pytest.raises(ConfigError, match="is damaged"):
        run.env.read_checkpoint_meta(1)


def test_a_missing_checkpoint_is_named(run: RunDirectory) -> None:
    with pytest.raises(ConfigError, match=r"cannot read checkpoint .*000007"):
        run.env.load_checkpoint(7)


def test_a_checkpoint_of_another_task_is_refused(run: RunDirectory) -> None:
    for process in run.processes().values():
        process.save_checkpoint(3, {}, {"belongs_to": identity(SPEC, CONFIG)})
    run.check_checkpoints(3, SPEC)
    other = TaskSpec("navigation", ("a", "b"), (3, 4), (Discrete(5), Discrete(5)))
    run.agent(1).save_checkpoint(3, {}, {"belongs_to": identity(other, CONFIG)})
    with pytest.raises(ConfigError, match=r"agent 1 .* its observation_sizes is \[3, 4\]"):
        run.check_checkpoints(3, SPEC)


def test_metrics_round_trip_and_are_valid_json(run: RunDirectory) -> None:
    run.env.log_metrics({"iteration": 1, "x": np.float32(0.5), "n": np.int64(3), "bad": float("nan"), "none": None})
    run.env.log_metrics({"iteration": 2, "by": {"a": float("inf")}})
    assert run.env.read_metrics() == [
        {"iteration": 1, "x": 0.5, "n": 3, "bad": None, "none": None},
        {"iteration": 2, "by": {"a": None}},
    ]


def test_a_line_that_is_being_written_is_read_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert tail.poll() == []
    path.write_text('{"a": 1}\n{"a"')
    assert tail.poll() == [{"a": 1}]
    assert tail.poll() == []
    with open(path, "a") as file:
        file.write(': 2}\nnot json\n3\n{"a": 4}\n')
    assert tail.poll() == [{"a": 2}, {"a": 4}]


def test_rewind_forgets_what_came_later(run: RunDirectory) -> None:
    for iteration in range(1, 6):
        run.env.log_metrics({"iteration": iteration})
        run.env.save_checkpoint(iteration, {}, {})
    with open(run.env.metrics_path, "a") as file:
        file.write('{"iteration": 6, "trunc')
    (run.env.path / ".checkpoint-000006.safetensors.tmp").write_bytes(b"half")
    run.rewind(3)
    assert run.env.checkpoint_iterations() == [1, 2, 3]
    lines = run.env.metrics_path.read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2, 3]
    assert not list(run.env.path.glob(".*"))


@pytest.mark.usefixtures("full_disk")
def test_a_failed_write_leaves_no_file_under_a_final_name(tmp_path: Path) -> None:
    process = ProcessDirectory(tmp_path / "env")
    with pytest.raises(StorageError, match=r"cannot write .*checkpoint-000001.safetensors: File too large"):
        process.save_checkpoint(1, {"big": np.zeros(1 << 16)}, {})
    assert list(process.path.iterdir()) == []


def test_a_run_is_held_by_one_training_at_a_time(run: RunDirectory) -> None:
    assert not run.is_locked()
    with run.lock():
        assert run.is_locked()
        with pytest.raises(ConfigError, match="in use"), run.lock():
            pass
    assert not run.is_locked()


@pytest.fixture
def full_disk() -> Iterator[None]:
    """The system refuses to let any file grow beyond 64 kB, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
