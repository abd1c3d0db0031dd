"""Fault injection in one process, recorded: its messages pass a fault gate, and it kills or stops itself."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from matrpo.errors import ConfigError
from matrpo.faults.fault import Fault, Position
from matrpo.faults.gate import Activity, FaultGate
from matrpo.faults.script import FaultScript
from matrpo.runs.json_lines import LineTail, append_line, check_number, check_whole
from matrpo.runs.process_directory import ProcessDirectory
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_directory import RunDirectory
from matrpo.runs.storage import storing
from matrpo.topology import CommunicationGraph

FILE_NAME = "faults.yaml"
"""The run's fault script, in the run directory."""

RECORD_NAME = "faults.jsonl"
"""What happened, in a process's folder: one JSON object per line, when a fault begins and when it ceases."""

_EVENTS = ("begins", "ceases")


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
        with storing(path):
            append_line(path, entry)


def read_record(directory: ProcessDirectory) -> list[dict[str, Any]]:
    """The entries of a process's record, in order; empty if nothing happened. A damaged line is skipped.

    Raises:
        ConfigError: somebody has put something else where a number is wanted.
    """
    path = directory.path / RECORD_NAME
    record = LineTail(path).poll()
    for entry in record:
        check_whole(path, entry, "fault")
        check_whole(path, entry, "iteration")
        if "time" in entry:
            check_number(path, entry, "time")
        if entry.get("event") not in _EVENTS:
            raise ConfigError(f"{path} has a line with the bad value {entry.get('event')!r} for 'event'")
    return record


def was_killed_by_script(
    directory: ProcessDirectory, script: FaultScript, process: ProcessId, since: float
) -> Fault | None:
    """The fault that ended a process's life, which began at `since` by the wall clock, if one did."""
    record = read_record(directory)
    if not record or record[-1].get("time", 0.0) < since:
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
    return {entry["fault"]: entry.get("time", 0.0) for entry in reversed(record) if entry["event"] == "begins"}


def _act(fault: Fault) -> None:
    me = os.getpid()
    if fault.kind == "kill":
        os.kill(me, signal.SIGKILL)
    elif fault.kind == "stop":
        assert fault.lasts is not None
        # Somebody else has to wake a process that stands still.
        subprocess.Popen(["sh", "-c", f"sleep {fault.lasts}; kill -CONT {me}"], start_new_session=True)
        os.kill(me, signal.SIGSTOP)
