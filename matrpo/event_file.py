"""TensorBoard event files of scalars, written directly.

The `tensorboard` package reads them; importing its writer would cost each process more than all it ever
writes. A file is a sequence of TFRecords, each a protocol buffer `Event` with a step and tagged floats.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from matrpo.process_directory import StorageError


class EventFile:
    """One event file in a folder of its own process.

    Args:
        folder: where TensorBoard looks; made if missing.
        first_step: what an earlier, interrupted file of the folder says of this step and later is void.

    Raises:
        StorageError: the file cannot be written.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        self._path = folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        started = _field(1, 0, 1)  # SessionLog.status = START
        self._append(_event(0, _field(3, 2, b"brain.Event:2")) + _event(first_step, _field(7, 2, started)))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append scalars by tag at `step`.

        Raises:
            StorageError: the file cannot be written.
        """
        values = (_field(1, 2, tag.encode()) + _field(2, 5, float(value)) for tag, value in scalars.items())
        summary = b"".join(_field(1, 2, value) for value in values)
        self._append(_event(step, _field(5, 2, summary)))

    def _append(self, records: bytes) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "ab") as file:
                file.write(records)
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror}") from error


def _event(step: int, content: bytes) -> bytes:
    return _record(_field(1, 1, time.time()) + _field(2, 0, step) + content)


def _record(data: bytes) -> bytes:
    """TFRecord framing: length, its masked CRC, data, its masked CRC."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked_crc(length)) + data + struct.pack("<I", _masked_crc(data))


def _field(number: int, wire_type: int, value: int | float | bytes) -> bytes:
    """A protocol buffer field: 0 varint, 1 double, 2 bytes, 5 float."""
    key = _varint(number << 3 | wire_type)
    if isinstance(value, bytes):
        return key + _varint(len(value)) + value
    if isinstance(value, float):
        return key + struct.pack("<d" if wire_type == 1 else "<f", value)
    return key + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _crc_table() -> list[int]:
    """CRC-32C (Castagnoli), reflected."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _crc_table()


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF
