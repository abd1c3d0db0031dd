"""A run whose processes are started one by one from a cluster file, as on separate machines."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running import LAST, TINY, checkpoints, has_iterations, train, train_here, wait_for

from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.launch.processes.supervisor import make_cluster
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import resolve
from matrpo.topology import make_graph


def prepare(folder: Path, **changes: object) -> Path:
    """A run directory of two agents with a cluster file, and nothing started."""
    settings = TINY | {"agents": 2, "topology": "line"} | changes
    run = RunDirectory.create(folder / "run", resolve(("test", settings)), {})
    make_cluster(run, make_graph("line", 2, 0), folder).save(run.path / "cluster.yaml")
    return run.path


def start(run: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "matrpo.launch.cli", *arguments, "--cluster", str(run / "cluster.yaml")]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def test_processes_started_by_hand_equal_a_launch(tmp_path: Path) -> None:
    run = prepare(tmp_path)
    processes = [start(run, "agent", "--id", "1"), start(run, "env-server"), start(run, "agent", "--id", "0")]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert all("INFO finished" in text for text in errors)
    launched = train_here(tmp_path / "launched", "--agents", "2", "--topology", "line")
    assert checkpoints(run) == checkpoints(launched)


@pytest.mark.slow
def test_further_servers_find_their_numbers_and_are_probed_by_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(tmp_path, env_servers=2)
    processes = [start(run, *process.arguments) for process in Cluster.load(run / "cluster.yaml").processes[1:]]
    monkeypatch.setenv("SLURM_PROCID", "0")
    processes.append(start(run, "env-server", "--id", "auto"))
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    launched = train(tmp_path / "launched", "--agents", "2", "--topology", "line", "--env-servers", "2")
    assert checkpoints(run) == checkpoints(launched)
    monkeypatch.setenv("SLURM_PROCID", "1")
    probed = start(run, "probe", "--env", "--id", "auto", stdout=subprocess.PIPE)
    assert probed.communicate(timeout=60)[0].startswith(f"env-server 1: iteration {LAST}")


@pytest.mark.slow
def test_when_the_server_is_stopped_all_stop_with_a_checkpoint(tmp_path: Path) -> None:
    run = prepare(tmp_path, steps=4_000_000)
    agents = [start(run, "agent", "--id", agent) for agent in "01"]
    server = start(run, "env-server")
    wait_for(has_iterations(run, 2), server)
    server.send_signal(signal.SIGINT)
    assert [process.wait(60) for process in (server, *agents)] == [130, 130, 130]
    for process in (server, *agents):
        process.communicate()
    assert RunDirectory.open(run).latest_common_iteration() >= 1
