"""The wire format: multipart messages `[msgpack header, raw array bytes, ...]`, unpacked strictly.

A header is a msgpack map with exactly the keys of its kind; every value has one type and one range, every array the one
dtype and shape that the run's settings imply, little-endian, in C order. Whatever else arrives is a `WireError`.
The last key of a header is `crc32`: of the header without it, packed in the order that it has, and of what follows it.
A link's log ratios, say, of 12 agents on 10,000 samples, all 0, are two frames, 480,000 bytes after a header of

    version 1, run "9f86d081884c7d65", kind "ratios", answered false, sender 3, link 2, incarnation 1, iteration 7, k 5,
    tip 4, base 3, dtype "float32", shape [12, 10000], crc32 1733104426
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np

from matrpo.consensus.message import LARGEST_NUMBER, Frames
from matrpo.envs.shared import AgentStep

VERSION = 1
MAX_HEADER_BYTES = 2048
MAX_FRAMES = 1 + len(dataclasses.fields(AgentStep))
_CHECK = "crc32"


class WireError(ValueError):
    """A message that is not of this format, or not of this run.

    Args:
        text: what is wrong, in one line.
        reason: the same in a word or two, out of few, to count by.
    """

    def __init__(self, text: str, reason: str = "malformed") -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class ArrayFormat:
    """The dtype and shape that an array on the wire must have."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def unpack(self, name: str, frame: bytes | memoryview) -> np.ndarray:
        """The array that a frame holds, which shares its memory.

        Raises:
            WireError: the frame has another length, or bytes that are no booleans.
        """
        expected = self.dtype.itemsize * int(np.prod(self.shape))
        if len(frame) != expected:
            raise WireError(f"{name} has {len(frame)} bytes, expected {expected}")
        array = np.frombuffer(frame, self.dtype.newbyteorder("<")).astype(self.dtype, copy=False).reshape(self.shape)
        if self.dtype.kind == "b" and np.frombuffer(frame, np.uint8).max(initial=0) > 1:
            raise WireError(f"{name} holds bytes that are not booleans")
        return array


class Header:
    """Strict parser of a header: takes values one by one; `close` refuses unknown keys and a wrong checksum."""

    def __init__(self, values: dict[str, Any], payloads: Frames) -> None:
        self._values = values
        check = values.pop(_CHECK, None)
        self._intact = type(check) is int and check == _checksum(values, payloads)

    def number(self, name: str, limit: int) -> int:
        """Take an integer from 0 to below `limit`."""
        value = self._take(name, int)
        if not 0 <= value < limit:
            raise WireError(f"header has {name} {value}, expected 0 to {limit - 1}")
        return int(value)

    def flag(self, name: str) -> bool:
        """Take a boolean."""
        return bool(self._take(name, bool))

    def text(self, name: str, allowed: tuple[str, ...] | None = None) -> str:
        """Take a text, one of those allowed."""
        value = str(self._take(name, str))
        if allowed is not None and value not in allowed:
            raise WireError(f"header has {name} {value!r}, expected {' or '.join(allowed)}")
        return value

    def names(self, name: str) -> list[str]:
        """Take a list of texts."""
        value = self._take(name, list)
        if not all(type(item) is str for item in value):
            raise WireError(f"header has a bad {name}")
        return list(value)

    def shape(self, name: str, expected: tuple[int, ...]) -> None:
        """Take an array's shape, which must be this one."""
        value = self._take(name, list)
        if any(type(item) is not int for item in value) or tuple(value) != expected:
            raise WireError(f"header has {name} {value}, expected {list(expected)}")

    def close(self) -> None:
        """Finish parsing: refuse values that were not taken, and a message whose checksum is wrong."""
        if self._values:
            raise WireError(f"header has unknown keys {sorted(self._values)}")
        if not self._intact:
            raise WireError("message was damaged on its way: its checksum is wrong", "checksum")

    def _take(self, name: str, kind: type) -> Any:
        value = self._values.pop(name, None)
        if type(value) is not kind:
            raise WireError(f"header has no {kind.__name__} named {name}")
        return value


def pack(run_id: str, values: Mapping[str, Any], *payloads: memoryview) -> list[bytes | memoryview]:
    """Frames of a header with these values, the run's id, the version and a checksum, and of the payloads."""
    header = {"version": VERSION, "run": run_id, **values}
    return [bytes(msgpack.packb({**header, _CHECK: _checksum(header, payloads)})), *payloads]


def _checksum(header: Mapping[str, Any], payloads: Frames) -> int:
    """CRC-32 of a header, packed, and of what follows it: a flipped bit must not become another log ratio."""
    checksum = zlib.crc32(msgpack.packb(header))
    for payload in payloads:
        checksum = zlib.crc32(payload, checksum)
    return checksum


def unpack(frames: Frames, run_id: str) -> Header:
    """The header of a message of this run.

    Raises:
        WireError: it is malformed, too large, of another version, or another run's.
    """
    if not 1 <= len(frames) <= MAX_FRAMES:
        raise WireError(f"message has {len(frames)} frames, expected 1 to {MAX_FRAMES}", "too many frames")
    if len(frames[0]) > MAX_HEADER_BYTES:
        raise WireError(f"header has {len(frames[0])} bytes, at most {MAX_HEADER_BYTES} are allowed", "too large")
    try:
        values = msgpack.unpackb(frames[0], strict_map_key=True, max_ext_len=0, max_bin_len=0)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
        raise WireError("header is not msgpack") from None
    if not isinstance(values, dict) or not all(type(key) is str for key in values):
        raise WireError("header is not a map of names")
    header = Header(values, frames[1:])
    version = header.number("version", LARGEST_NUMBER)
    if version != VERSION:
        raise WireError(f"format version is {version}, expected {VERSION}")
    if header.text("run") != run_id:
        raise WireError("message of another run", "foreign run")
    return header


def raw_bytes(array: np.ndarray) -> memoryview:
    """The bytes of an array as they are sent; the memory of a contiguous one where a machine is little-endian."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data


def expect_frames(frames: Frames, count: int) -> None:
    """Check how many frames a message has.

    Raises:
        WireError: it has more or fewer.
    """
    if len(frames) != count:
        raise WireError(f"message has {len(frames)} frames, expected {count}")
