"""Four machines that are none, and a cable that is pulled."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from matrpo.experiments.bench.live.isolated_hosts import HostsError, IsolatedHosts
from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.runs.run_directory import RunDirectory

HOSTS = 4
_PATIENCE = 120.0
_SETTINGS = [
    "--agents=4", "--topology=ring", "--num-envs=4", "--rollout-length=10", "--hidden-sizes=8,8", "--steps=4000000",
    "--link-deadline=2", "--link-resend=0.5", "--on-agent-loss=noop", "--no-tensorboard",
]  # fmt: skip


@pytest.fixture
def machines() -> Iterator[IsolatedHosts]:
    try:
        with IsolatedHosts(HOSTS) as machines:
            yield machines
    except HostsError as error:
        pytest.skip(str(error))


def lines(run: Path, process: str) -> list[dict[str, Any]]:
    (files,) = (files for one, files in RunDirectory.open(run).processes().items() if one.name == process)
    return files.read_metrics()


def until(what: str, condition: Any, processes: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        for process in processes:
            assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_over_four_machines_survives_a_pulled_cable(machines: IsolatedHosts, tmp_path: Path) -> None:
    run = tmp_path / "run"
    hosts = [word for address in machines.addresses for word in ("--host", address)]
    arguments = ["cluster", "init", *hosts, "--env-host", machines.addresses[0], "--out", str(run), *_SETTINGS]
    made = subprocess.run([sys.executable, "-m", "matrpo.launch.cli", *arguments], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    file = run / "cluster.yaml"
    assert Cluster.load(file).keys is not None
    processes = [machines.start(host, "agent", "--cluster", str(file), "--id", str(host)) for host in range(HOSTS)]
    processes.append(machines.start(0, "env-server", "--cluster", str(file)))
    try:
        until("first iterations", lambda: len(lines(run, "agent 2")) >= 3, processes)

        machines.pull_cable(2)
        cut_at = len(lines(run, "env-server"))
        until("the others go on", lambda: len(lines(run, "env-server")) >= cut_at + 5, processes)
        alone = lines(run, "agent 2")
        assert len(alone) <= cut_at + 1, "agent 2 cannot go on without the environment server"

        machines.put_cable_back(2)
        back = len(alone)
        until("agent 2 is back", lambda: len(lines(run, "agent 2")) >= back + 5, processes)
        until("its links too", lambda: lines(run, "agent 2")[-1]["skips"] == 0, processes)
        assert lines(run, "agent 2")[-1]["commits"] > 0

        processes[-1].send_signal(signal.SIGINT)
        assert [process.wait(60) for process in processes] == [130] * 5
    finally:
        for process in processes:
            process.kill()
            process.communicate()
