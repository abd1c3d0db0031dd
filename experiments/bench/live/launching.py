"""Real runs for benchmarks, observed through their files: by `matrpo launch`, or with a machine for each process."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from matrpo.experiments.bench.live.isolated_hosts import IsolatedHosts
from matrpo.experiments.matrpo_command import MATRPO
from matrpo.runs.run_directory import ProcessDirectory, RunDirectory

_READY = "all agents are here"
_POLL = 0.01
_PATIENCE = 30.0
"""Timeout in seconds for the run to end after it is asked to."""


class LaunchedRun:
    """A run in a temporary folder, from its launch to the end of the `with` block.

    Args:
        agents: N.
        settings: every setting that is not the default.
        flags: further options of `matrpo launch`.
    """

    def __init__(self, agents: int, settings: Mapping[str, Any], flags: Sequence[str] = ()) -> None:
        self._agents = agents
        self._flags = flags
        self._settings = {**settings, "agents": agents}

    def __enter__(self) -> LaunchedRun:
        """Launch it."""
        self._folder = tempfile.TemporaryDirectory(prefix="matrpo-bench-")
        self._path = Path(self._folder.name) / "run"
        settings = _options(self._settings)
        command = [*MATRPO, "launch", "--run", str(self._path), *self._flags, *settings]
        self._errors = open(self._path.with_name("errors.txt"), "w+")
        self._launched_at = time.perf_counter()
        self._process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=self._errors)
        return self

    def __exit__(self, *raised: object) -> None:
        """End it if it still runs, and remove its files."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_PATIENCE)
            except psutil.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._errors.close()
        self._folder.cleanup()

    @property
    def environment(self) -> ProcessDirectory:
        """The environment server's files."""
        return ProcessDirectory(self._path / "env")

    def environment_metrics(self) -> list[dict[str, Any]]:
        """The environment's lines of metrics, all servers' together."""
        return RunDirectory.open(self._path).environment_metrics()

    @property
    def agents(self) -> list[ProcessDirectory]:
        """The agents' files."""
        return [ProcessDirectory(self._path / "agents" / f"{agent:02d}") for agent in range(self._agents)]

    def wait_until_ready(self) -> float:
        """Wait until every agent has said hello to the server; returns the seconds since the launch."""

        def ready() -> bool:
            log = self.environment.log_path
            return log.exists() and _READY in log.read_text()

        self.wait(ready)
        return time.perf_counter() - self._launched_at

    def wait_for(self, iteration: int) -> None:
        """Wait until every process has recorded an iteration."""

        def recorded() -> bool:
            if any(len(process.read_metrics()) < iteration for process in self.agents):
                return False
            return len(self.environment_metrics()) >= iteration

        self.wait(recorded)

    def processes(self) -> list[psutil.Process]:
        """The launcher and all that it has started."""
        return [self._process, *self._process.children(recursive=True)]

    def agent_processes(self) -> list[psutil.Process]:
        """The agents, in the order of their ids."""
        by_name = {" ".join(process.cmdline()).strip(): process for process in self.processes()}
        return [by_name[f"matrpo agent {agent}"] for agent in range(self._agents)]

    def cpu_seconds(self) -> float:
        """Total CPU seconds of all living processes of the run so far."""
        times = [process.cpu_times() for process in self.processes()]
        return sum(used.user + used.system for used in times)

    def wait(self, condition: Callable[[], bool], every: float = _POLL) -> None:
        """Wait until a condition holds.

        Args:
            condition: is looked at again and again.
            every: seconds between two looks.

        Raises:
            RuntimeError: the run has ended before.
        """
        while not condition():
            if self._process.poll() is not None and not condition():
                self._errors.seek(0)
                raise RuntimeError(f"matrpo launch ended too early:\n{self._errors.read()}")
            time.sleep(every)


class ClusterRun:
    """A run with every process on a machine of its own, from its start to the end of the `with` block.

    Agent i is on machine i, the environment server on the last.

    Args:
        hosts: one machine for each agent and one more.
        settings: every setting that is not the default.
    """

    def __init__(self, hosts: IsolatedHosts, settings: Mapping[str, Any]) -> None:
        self._hosts = hosts
        self._settings = settings
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> ClusterRun:
        """Write its cluster file and start all processes."""
        self._folder = tempfile.TemporaryDirectory(prefix="matrpo-bench-")
        path = Path(self._folder.name) / "run"
        *agents, server = self._hosts.addresses
        options = _options(self._settings)
        options += [part for address in agents for part in ("--host", address)]
        options += ["--agents", str(len(agents)), "--env-host", server, "--out", str(path)]
        command = [*MATRPO, "cluster", "init", *options]
        subprocess.run(command, check=True, capture_output=True)
        run = RunDirectory.open(path)
        self.environment = run.env
        self.agents = [run.agent(agent) for agent in range(len(agents))]
        cluster = ("--cluster", str(path / "cluster.yaml"))
        self._processes = [
            self._hosts.start(agent, "agent", *cluster, "--id", str(agent)) for agent in range(len(agents))
        ]
        self._processes.append(self._hosts.start(len(agents), "env-server", *cluster))
        return self

    def __exit__(self, *raised: object) -> None:
        """End all processes and remove the files."""
        for process in self._processes:
            process.kill()
            process.communicate()
        self._folder.cleanup()

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds.

        Raises:
            RuntimeError: a process has ended before.
        """
        while not condition():
            for process in self._processes:
                if process.poll() is not None:
                    raise RuntimeError(f"a process ended too early:\n{process.communicate()[1]}")
            time.sleep(_POLL)


def metric(lines: list[dict[str, Any]], name: str) -> list[float]:
    """One metric over iterations, 0 where it is missing."""
    return [float(line.get(name) or 0.0) for line in lines]


def _options(settings: Mapping[str, Any]) -> list[str]:
    """Settings as options of the command line, whose values are YAML."""
    return [part for name, value in settings.items() for part in ("-o", f"{name}={json.dumps(value)}")]
