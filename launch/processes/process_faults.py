"""Fault injection in one process, recorded: its messages pass a fault gate, and it kills or stops itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from matrpo.faults.fault import Fault, Position
from matrpo.faults.gate import Activity, FaultGate
from matrpo.faults.script import FaultScript
from matrpo.runs.process_directory import ProcessDirectory
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_directory import RunDirectory
from matrpo.runs.storage import storing
from matrpo.topology import CommunicationGraph

FILE_NAME = "faults.yaml"
"""The run's fault script, in the run directory."""

RECORD_NAME = "faults.jsonl"
"""What happened, in a process's folder: one JSON object per line, when a fault begins and when it ceases."""


class ProcessFaults:
    """Injects the faults of a fault script that concern one process.

    A process that was started again goes on with its share where it was killed.

    Args:
        script: the run's.
        process: this one.
        directory: its files.
        gate: what its messages pass; None if it has no neighbours.
    """

    def __init__(
        self, script: FaultScript, process: ProcessId, directory: ProcessDirectory, gate: FaultGate | None
    ) -> None:
        self._directory = directory
        self._began = time.monotonic()
        happened = _beginnings(read_record(directory))
        now = time.time()
        since = {number: began - now for number, began in happened.items()}
        own = [fault for fault in script.of_process(process) if fault.number not in happened]
        self._activities = [Activity(own)]
        if gate:
            gate.activity.resume(since)
            self._activities.append(gate.activity)

    def move(self, iteration: int, phase: str, activation: int) -> None:
        """Advance to a position, which triggers faults that begin or cease there. The process may kill itself here."""
        position = Position(iteration, phase, activation, time.monotonic() - self._began)
        for activity in self._activities:
            began, ceased = activity.move(position)
            for fault in ceased:
                self._record(fault, "ceases", position)
            for fault in began:
                self._record(fault, "begins", position)
                _act(fault)

    def _record(self, fault: Fault, event: str, position: Position) -> None:
        entry = {
            "time": time.time(),
            "event": event,
            "fault": fault.number,
            "do": fault.kind,
            "iteration": position.iteration,
            "phase": position.phase,
            "activation": position.activation,
        }
        path = self._directory.path / RECORD_NAME
        with storing(path), open(path, "a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_record(directory: ProcessDirectory) -> list[dict[str, Any]]:
    """The entries of a process's record, in order; empty if nothing happened."""
    path = directory.path / RECORD_NAME
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def was_killed_by_script(
    directory: ProcessDirectory, script: FaultScript, process: ProcessId, since: float
) -> Fault | None:
    """The fault that ended a process's life, which began at `since` by the wall clock, if one did."""
    record = read_record(directory)
    if not record or record[-1]["time"] < since:
        return None
    kills = {fault.number: fault for fault in script.of_process(process) if fault.kind == "kill"}
    return kills.get(record[-1]["fault"])


def script_of(run: RunDirectory, graph: CommunicationGraph) -> FaultScript:
    """Load the fault script of a run directory; one without faults if there is none.

    Raises:
        ConfigError: it is not valid.
    """
    path = run.path / FILE_NAME
    return FaultScript.load(str(path), graph, run.num_servers) if path.is_file() else FaultScript()


def _beginnings(record: Sequence[dict[str, Any]]) -> dict[int, float]:
    """When each fault began for the first time, by the wall clock."""
    return {entry["fault"]: entry["time"] for entry in reversed(record) if entry["event"] == "begins"}


def _act(fault: Fault) -> None:
    me = os.getpid()
    if fault.kind == "kill":
        os.kill(me, signal.SIGKILL)
    elif fault.kind == "stop":
        assert fault.lasts is not None
        # Somebody else has to wake a process that stands still.
        subprocess.Popen(["sh", "-c", f"sleep {fault.lasts}; kill -CONT {me}"], start_new_session=True)
        os.kill(me, signal.SIGSTOP)
