"""Real runs with several environment servers: the same, to the bit, as with one, and whole again after a crash."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from marks import slow
from running import (
    LAST,
    TIMINGS,
    Matrpo,
    checkpoints,
    free_ports,
    has_iterations,
    metrics,
    names,
    session_of,
    start,
    survivors,
    train,
    train_here,
    wait_for,
)

from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.runs.run_directory import RunDirectory

FEW = ("--admm-iterations", "24")
NAVIGATION = ("--agents", "3", *FEW)
TREASURE = ("--task", "treasure", "--agents", "4", "--recurrent-layers", "1", "--chunk-length", "5", *FEW)
CHEETAH = ("--task", "mamujoco/HalfCheetah-2x3", "--topology", "line", "--env-workers", "1", *FEW)
TRAFFIC = ("messages_", "bytes_", "unsent", "resends", "rejected", "refused", "links")


def learnt(run: Path) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """All that must not depend on who simulates: the agents' checkpoints and metrics, and the environment's."""
    of_agents = {name: lines for name, lines in metrics(run, without=TRAFFIC).items() if name.startswith("agents")}
    states = {name: state for name, state in checkpoints(run).items() if name.startswith("agents")}
    lines = RunDirectory.open(run).environment_metrics()
    return states, of_agents, [{k: v for k, v in line.items() if not k.startswith(TIMINGS)} for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def single(folder: Path) -> Path:
    """Navigation in one process."""
    return train_here(folder / "single", *NAVIGATION, "--env-servers", "4")


@pytest.mark.parametrize("servers", [slow("2"), "4"])
def test_several_servers_equal_one_process_bit_for_bit(folder: Path, single: Path, servers: str) -> None:
    run = train(folder / f"navigation-{servers}", *NAVIGATION, "--env-servers", servers)
    assert learnt(run) == learnt(single)
    assert len(learnt(run)[2]) == LAST
    logs = [process.log_path.read_text() for process in RunDirectory.open(run).processes().values()]
    assert len(logs) == 3 + int(servers)
    assert all("finished" in log and "WARNING" not in log for log in logs)


@pytest.mark.slow
@pytest.mark.parametrize("task", [pytest.param(TREASURE, id="treasure"), pytest.param(CHEETAH, id="cheetah")])
def test_a_resumed_run_of_two_servers_equals_one_process_bit_for_bit(folder: Path, task: tuple[str, ...]) -> None:
    run = train(folder / f"{task[1][:5]}-2", *task, "--env-servers", "2", "--steps", "200")
    train(run, "--resume", "--steps", "480")
    assert learnt(run) == learnt(train(folder / f"{task[1][:5]}-1", *task, "--in-process"))


def test_servers_with_keys_equal_one_process_bit_for_bit(folder: Path, single: Path) -> None:
    port = free_ports(5)
    run = train(folder / "tcp", *NAVIGATION, "--env-servers", "2", "--transport", "tcp", "--port", str(port))
    assert learnt(run) == learnt(single)
    assert Cluster.load(run / "cluster.yaml").servers == (f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port + 4}")


@pytest.mark.parametrize("killed", [slow("env-server"), "env-server 1", slow("agent 1")])
def test_a_killed_process_comes_back_and_the_run_finishes(folder: Path, killed: str) -> None:
    run = folder / f"killed-{killed}"
    iterations = 16 if "server" in killed else 40  # without an agent the others go on, without a server nobody
    long = ("--steps", str(40 * iterations), "--checkpoint-every", "2")
    with start(run, *NAVIGATION, "--env-servers", "2", *long, "--restart") as launcher:
        wait_for(has_iterations(run, 6), launcher)
        everyone = session_of(launcher)
        process_of(launcher, killed).send_signal(signal.SIGKILL)
        assert launcher.wait(600) == 0, launcher.stderr and launcher.stderr.read()
    assert survivors(everyone, within=5) == []
    lines = RunDirectory.open(run).environment_metrics()
    assert lines[-1]["iteration"] == iterations
    for agent in range(3):
        done = [line["iteration"] for line in RunDirectory.open(run).agent(agent).read_metrics()]
        assert done == sorted(set(done))
        assert done[-1] == iterations


def process_of(launcher: subprocess.Popen[str], name: str) -> psutil.Process:
    """A process of a run, once it has its name."""
    wait_for(lambda: f"matrpo {name}" in names(session_of(launcher)), launcher)
    return next(process for process in session_of(launcher) if names([process]) == [f"matrpo {name}"])


def test_what_cannot_have_several_servers_says_so(matrpo: Matrpo, tmp_path: Path, single: Path) -> None:
    def mistake(*arguments: object) -> str:
        status, _, errors = matrpo(*arguments)
        assert status == 2
        return errors

    assert "env_servers" in mistake("launch", "--num-envs", 10, "--env-servers", 3)
    assert "a divisor of num_envs, 10" in mistake("launch", "--num-envs", 10, "--env-servers", 3)
    assert "'env_servers'" in mistake("launch", "--algo", "happo", "--env-servers", 2)
    assert "cannot change 'env_servers'" in mistake("launch", "--run", single, "--resume", "--env-servers", 2)
    init = ("cluster", "init", "--agents", 3, "--host", "a", "--out", tmp_path / "run")
    assert "'env_servers' is 1" in mistake(*init, "--env-host", "b", "--env-host", "c")


def test_a_cluster_has_an_address_for_each_server(matrpo: Matrpo, tmp_path: Path) -> None:
    hosts = ("--host", "a", "--env-host", "b", "--env-host", "c", "--env-servers", 4)
    status, _, said = matrpo("cluster", "init", "--agents", 3, *hosts, "--out", tmp_path / "run")
    assert status == 0
    cluster = Cluster.load(tmp_path / "run" / "cluster.yaml")
    assert cluster.servers == ("tcp://b:5600", "tcp://b:5604", "tcp://c:5605", "tcp://c:5606")
    assert "b: 5600, 5604" in said
    assert "c: matrpo env-server --id 2 --cluster" in said
    status, _, said = matrpo("env-server", "--cluster", cluster.file, "--id", 4)
    assert status == 2
    assert "has the environment servers 0 to 3, not 4" in said
