"""Synchronous writer of TensorBoard scalars, without the thread and the queue of TensorBoard's own writer."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from matrpo.runs.storage import storing


class EventFile:
    """Writer of one TensorBoard event file, in the folder of its process.

    Args:
        folder: where TensorBoard looks; made if missing.
        first_step: what an earlier, interrupted file of the folder says of this step and later is void.

    Raises:
        StorageError: the file cannot be written.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        self._path = folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        started = SessionLog(status=SessionLog.START)
        self._append(Event(file_version="brain.Event:2"), Event(step=first_step, session_log=started))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append scalars by tag at `step`.

        Raises:
            StorageError: the file cannot be written.
        """
        values = [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in scalars.items()]
        self._append(Event(step=step, summary=Summary(value=values)))

    def _append(self, *events: Event) -> None:
        buffer = io.BytesIO()
        writer = RecordWriter(buffer)
        for event in events:
            event.wall_time = time.time()
            writer.write(event.SerializeToString())
        with storing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "ab") as file:
                file.write(buffer.getvalue())
