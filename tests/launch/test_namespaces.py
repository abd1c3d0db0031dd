"""Four machines that are none: network namespaces with addresses of their own, joined by a bridge."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from matrpo.launch.cluster import Cluster
from matrpo.run_directory import RunDirectory

HOSTS = 4
_PATIENCE = 120.0
_SETTINGS = [
    "--agents=4", "--topology=ring", "--num-envs=4", "--rollout-length=10", "--hidden-sizes=8,8", "--steps=4000000",
    "--link-deadline=2", "--link-resend=0.5", "--on-agent-loss=noop", "--no-tensorboard",
]  # fmt: skip


class Machines:
    """Namespaces that are joined by a bridge, in a namespace too; nothing of this machine's own network is touched."""

    def __init__(self) -> None:
        self._prefix = f"mt{os.getpid()}"
        self._switch = f"{self._prefix}s"
        self.addresses = [f"10.213.7.{host + 1}" for host in range(HOSTS)]

    def name(self, host: int) -> str:
        return f"{self._prefix}h{host}"

    def make(self) -> None:
        """Raises CalledProcessError where this is not allowed."""
        _ip("netns", "add", self._switch)
        self._inside(self._switch, "link", "add", "bridge", "type", "bridge")
        self._inside(self._switch, "link", "set", "bridge", "up")
        for host, address in enumerate(self.addresses):
            _ip("netns", "add", self.name(host))
            port = ["name", f"port{host}", "netns", self._switch]
            self._inside(self.name(host), "link", "add", "eth0", "type", "veth", "peer", *port)
            self._inside(self._switch, "link", "set", f"port{host}", "master", "bridge", "up")
            self._inside(self.name(host), "addr", "add", f"{address}/24", "dev", "eth0")
            self._inside(self.name(host), "link", "set", "lo", "up")
            self._inside(self.name(host), "link", "set", "eth0", "up")

    def remove(self) -> None:
        for name in (*(self.name(host) for host in range(HOSTS)), self._switch):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def cable(self, host: int, state: str) -> None:
        """Pull a machine's cable (`down`), or put it back (`up`)."""
        self._inside(self._switch, "link", "set", f"port{host}", state)

    def start(self, host: int, *arguments: str) -> subprocess.Popen[str]:
        """Run matrpo on a machine."""
        command = ["ip", "netns", "exec", self.name(host), sys.executable, "-m", "matrpo.launch.cli", *arguments]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def _inside(self, name: str, *arguments: str) -> None:
        _ip("-n", name, *arguments)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def machines() -> Iterator[Machines]:
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need iproute2, which is not installed")
    machines = Machines()
    try:
        machines.make()
    except subprocess.CalledProcessError as error:
        machines.remove()
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
    try:
        yield machines
    finally:
        machines.remove()


def lines(run: Path, process: str) -> list[dict[str, Any]]:
    return RunDirectory.open(run).processes()[process].read_metrics()


def until(what: str, condition: Any, processes: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        for process in processes:
            assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_a_run_over_four_machines_survives_a_pulled_cable(machines: Machines, tmp_path: Path) -> None:
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

        machines.cable(2, "down")
        cut_at = len(lines(run, "env-server"))
        until("the others go on", lambda: len(lines(run, "env-server")) >= cut_at + 5, processes)
        alone = lines(run, "agent 2")
        assert len(alone) <= cut_at + 1, "agent 2 cannot go on without the environment server"

        machines.cable(2, "up")
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
