"""Reads the files that Weights & Biases writes in its offline mode: LevelDB's log format, of Protocol Buffers."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HEADER = 7  # ":W&B", two bytes of magic, a version
_BLOCK = 32768


@dataclass
class OfflineRun:
    """What one file holds: a run, or a part of one, as often as it was resumed."""

    id: str = ""
    group: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    points: list[tuple[int, dict[str, Any]]] = field(default_factory=list)


def read_offline_runs(folder: Path) -> list[OfflineRun]:
    """All of a folder, in the order in which they were written."""
    return [_read(file) for file in sorted(folder.glob("**/*.wandb"), key=lambda file: file.stat().st_mtime_ns)]


def _read(file: Path) -> OfflineRun:
    from wandb.proto.wandb_internal_pb2 import Record

    run = OfflineRun()
    for data in _records(file.read_bytes()):
        record = Record.FromString(data)
        if record.HasField("run"):
            run.id, run.group = record.run.run_id, record.run.run_group
            run.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif record.HasField("history"):
            items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            step = int(items.pop("_step", record.history.step.num))
            run.points.append((step, {key: value for key, value in items.items() if not key.startswith("_")}))
    return run


def _records(data: bytes) -> list[bytes]:
    """The log's records, put together of their fragments: 1 is a whole one, 2 to 4 its first, middle and last part."""
    found, parts, at = [], b"", _HEADER
    while at + 7 <= len(data):
        room = _BLOCK - at % _BLOCK
        if room < 7:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts = (b"" if kind in (1, 2) else parts) + data[at + 7 : at + 7 + length]
        if kind in (1, 4):
            found.append(parts)
        at += 7 + length
    return found
