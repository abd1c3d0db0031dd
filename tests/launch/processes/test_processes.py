"""Real runs: many processes equal one, a resumed run equals an uninterrupted one, and nothing is ever left behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import (
    LAST,
    checkpoints,
    free_ports,
    has_iterations,
    metrics,
    names,
    session_of,
    socket_directory,
    start,
    survivors,
    train,
    train_here,
    wait_for,
)

from matrpo.runs.run_directory import RunDirectory

FEW = ("--admm-iterations", "24", "--no-kl-decay")  # with it, runs differ by how long they are to be
RING = ("--agents", "4", *FEW)
RANDOM = ("--agents", "5", "--topology", "erdos-renyi:0.5", "--seed", "7", *FEW)
ENDLESS = ("--steps", "4000000")
TRAFFIC = ("messages_", "bytes_", "unsent", "resends", "rejected", "refused", "links")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def ring(folder: Path) -> Path:
    """A run on a ring, one process for each agent."""
    return train(folder / "ring", *RING)


def test_a_finished_run_is_complete_and_leaves_nothing_else(ring: Path) -> None:
    run = RunDirectory.open(ring)
    assert run.latest_common_iteration() == LAST
    lines = metrics(ring)
    assert len(lines) == 5
    for process, its in lines.items():
        assert [line["iteration"] for line in its] == list(range(1, LAST + 1)), process
    assert {path.name for path in (ring / "tensorboard").iterdir()} == {"env", *(f"agent-0{i}" for i in range(4))}
    assert not socket_directory(ring).exists()
    for process in run.processes().values():
        assert "finished" in process.log_path.read_text()
        assert "WARNING" not in process.log_path.read_text()


def test_a_folder_named_matrpo_in_the_current_directory_is_not_imported(tmp_path: Path) -> None:
    """As in a clone of the repository, where an installed matrpo is run."""
    (tmp_path / "matrpo").mkdir()
    (tmp_path / "matrpo" / "__init__.py").write_text("raise ImportError('the wrong matrpo')")
    program = Path(sys.executable).with_name("matrpo")
    arguments = [
        "launch",
        "--agents",
        "3",
        "--num-envs",
        "2",
        "--steps",
        "20",
        "--rollout-length",
        "10",
        "--run",
        "run",
    ]
    result = subprocess.run([program, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_many_processes_on_a_ring_equal_one_process_bit_for_bit(folder: Path, ring: Path) -> None:
    single = train_here(folder / "ring-single", *RING)
    assert checkpoints(single) == checkpoints(ring)
    assert metrics(single, without=TRAFFIC) == metrics(ring, without=TRAFFIC)


@pytest.mark.slow
def test_many_processes_on_a_random_graph_equal_one_process_bit_for_bit(folder: Path) -> None:
    many = train(folder / "random", *RANDOM)
    single = train(folder / "random-single", *RANDOM, "--in-process")
    assert checkpoints(single) == checkpoints(many)
    assert metrics(single, without=TRAFFIC) == metrics(many, without=TRAFFIC)


def test_agents_that_average_and_observe_changes_are_the_same_in_many_processes_as_in_one(folder: Path) -> None:
    many_agents = ("--agents", "4", "--consensus", "averaging")
    many = train(folder / "average", *many_agents)
    single = train_here(folder / "average-single", *many_agents)
    assert checkpoints(single) == checkpoints(many)
    assert metrics(single, without=TRAFFIC) == metrics(many, without=TRAFFIC)


@pytest.mark.slow
def test_thin_links_and_fitted_models_are_the_same_in_many_processes_as_in_one(folder: Path, ring: Path) -> None:
    thin = ("-o", "consensus_samples=10", "-o", "model_epochs=1", "--step-damping", "1")
    many, single = train(folder / "thin", *RING, *thin), train(folder / "thin-single", *RING, *thin, "--in-process")
    assert checkpoints(single) == checkpoints(many) != checkpoints(ring)
    assert metrics(single, without=TRAFFIC) == metrics(many, without=TRAFFIC)

    def payload(run: Path) -> float:
        lines = metrics(run)["agents/00/metrics.jsonl"]
        return sum(line["bytes_sent"] for line in lines) / sum(line["messages_sent"] for line in lines)

    assert payload(many) < 0.5 * payload(ring)


@pytest.mark.slow
def test_recurrent_networks_are_the_same_in_many_processes_resumed_as_in_one(folder: Path) -> None:
    """It stops in the middle of episodes: the memory goes through the checkpoint."""
    recurrent = ("--agents", "3", "--recurrent-layers", "1", "--chunk-length", "5", *FEW)
    many = train(folder / "recurrent", *recurrent, "--steps", "200")
    assert RunDirectory.open(many).agent(0).load_checkpoint(5)[0]["memory.policy"].any()
    train(many, "--resume", "--steps", "480")
    single = train(folder / "recurrent-single", *recurrent, "--in-process")
    assert checkpoints(single) == checkpoints(many)
    assert metrics(single, without=TRAFFIC) == metrics(many, without=TRAFFIC)


@pytest.mark.parametrize("security", [[], ["--insecure"]], ids=["keys", "insecure"])
def test_two_runs_are_equal_bit_for_bit_whatever_the_transport(folder: Path, ring: Path, security: list[str]) -> None:
    name = f"again-{len(security)}"
    again = train(folder / name, *RING, "--transport", "tcp", "--port", str(free_ports(5)), *security)
    assert checkpoints(again) == checkpoints(ring)
    assert (again / "keys").exists() == (not security)
    logs = [path.read_text() for path in again.glob("**/log.txt")]
    assert all(("INSECURE" in log) == bool(security) for log in logs)


def test_without_links_every_agent_learns_alone(folder: Path, ring: Path) -> None:
    alone = train(folder / "alone", "--agents", "4", "--topology", "none")
    assert all(line["consensus_residual"] == 0 for line in metrics(alone)["agents/00/metrics.jsonl"])
    assert all(line["consensus_residual"] > 0 for line in metrics(ring)["agents/00/metrics.jsonl"])
    assert checkpoints(alone).keys() == checkpoints(ring).keys()


def test_ctrl_c_stops_with_a_checkpoint_and_the_run_goes_on_as_if_nothing_happened(folder: Path, ring: Path) -> None:
    run = folder / "stopped"
    with start(run, *RING, *ENDLESS) as launcher:
        wait_for(has_iterations(run, 3), launcher)
        everyone = session_of(launcher)
        began = time.monotonic()
        os.killpg(launcher.pid, signal.SIGINT)
        assert launcher.wait(20) == 130
        assert time.monotonic() - began < 4
        assert launcher.stderr is not None
        errors = launcher.stderr.read()
    assert f"matrpo launch --run {run} --resume" in errors
    assert "Traceback" not in errors
    assert survivors(everyone, within=2) == []
    assert not socket_directory(run).exists()
    stopped_at = RunDirectory.open(run).latest_common_iteration()
    assert 2 <= stopped_at < LAST
    train(run, *RING, "--resume")
    assert checkpoints(run) == checkpoints(ring)
    assert metrics(run, without=TRAFFIC) == metrics(ring, without=TRAFFIC)


def test_a_killed_launcher_leaves_nothing_and_the_run_goes_on_from_its_checkpoint(folder: Path, ring: Path) -> None:
    run = folder / "killed"
    with start(run, *RING, *ENDLESS, "--checkpoint-every", "2") as launcher:
        wait_for(has_iterations(run, 3), launcher)
        everyone = session_of(launcher)
        assert names(everyone)[:5] == [*(f"matrpo agent {agent}" for agent in range(4)), "matrpo env-server"]
        assert "matrpo warm parent" in names(everyone)
        sockets = socket_directory(run)
        assert sockets.stat().st_mode & 0o777 == 0o700
        launcher.kill()
        launcher.wait(5)
        assert survivors(everyone, within=5) == []
        assert not sockets.exists()
    assert 2 <= RunDirectory.open(run).latest_common_iteration() < LAST
    train_here(run, *RING, "--resume")
    assert checkpoints(run) == checkpoints(ring)
    assert metrics(run, without=TRAFFIC) == metrics(ring, without=TRAFFIC)


def test_a_second_ctrl_c_stops_at_once(folder: Path) -> None:
    run = folder / "impatient"
    with start(run, *RING, *ENDLESS) as launcher:
        wait_for(has_iterations(run, 1), launcher)
        everyone = session_of(launcher)
        for process in everyone:
            if "matrpo agent 1" in names([process]):
                process.suspend()  # it cannot stop by itself
        launcher.send_signal(signal.SIGINT)
        wait_for(lambda: len(survivors(everyone, within=0)) < len(everyone), launcher)
        launcher.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert launcher.wait(20) == 130
        assert time.monotonic() - began < 2
    assert survivors(everyone, within=2) == []
    assert not socket_directory(run).exists()


def test_ctrl_c_while_the_processes_start_leaves_nothing(folder: Path) -> None:
    run = folder / "hasty"
    with start(run, *RING, *ENDLESS) as launcher:
        wait_for((run / "cluster.yaml").exists, launcher)
        wait_for(lambda: len(session_of(launcher)) > 1, launcher)
        everyone = session_of(launcher)
        os.killpg(launcher.pid, signal.SIGINT)
        assert launcher.wait(3) == 130
        assert launcher.stderr is not None
        assert "Traceback" not in launcher.stderr.read()
    assert survivors(everyone, within=5) == []
    assert not socket_directory(run).exists()


def test_a_disk_that_fills_up_ends_the_run_with_a_clear_line(folder: Path) -> None:
    run = folder / "full"
    limit = 1_200_000
    large = ("--hidden-sizes", "512,512", "--checkpoint-every", "1")
    full_disk = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: E731
    with start(run, *RING, *large, preexec_fn=full_disk) as launcher:
        everyone = session_of(launcher)
        assert launcher.wait(60) == 1
        assert launcher.stderr is not None
        errors = launcher.stderr.read()
    line = next(line for line in errors.splitlines() if line.startswith("matrpo: error: "))
    assert "cannot write" in line
    assert line.endswith("checkpoint-000001.safetensors: File too large")
    assert "Traceback" not in errors
    assert not list(run.glob("**/*.tmp"))
    assert survivors(everyone, within=2) == []


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["complete", "star"])
def test_64_agents_that_end_together_all_end_well(folder: Path, topology: str) -> None:
    """Each has up to 63 connections, over which messages still come while it ends."""
    tiny = (
        "--num-envs",
        "1",
        "--rollout-length",
        "3",
        "--steps",
        "6",
        "--hidden-sizes",
        "4,4",
        "--admm-iterations",
        "64",
    )
    run = train(folder / topology, "--agents", "64", "--topology", topology, *tiny)
    assert {len(lines) for lines in metrics(run).values()} == {2}
