"""Encodes and decodes the messages between neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from matrpo.consensus.message import LARGEST_NUMBER, Frames, Kind, LinkMessage
from matrpo.launch.wire.frames import MAX_HEADER_BYTES, ArrayFormat, expect_frames, pack, raw_bytes, unpack

_RATIOS = "ratios"
_PROBE = "probe"
_LINK_KINDS = get_args(Kind)


@dataclass(frozen=True)
class Probe:
    """A ping over a link, which the other end sends back as a reply: a liveness check and round-trip measurement.

    The first one tells an end that was dialled where to answer. `stamp` is the asker's clock in microseconds.
    """

    sender: int
    stamp: int
    reply: bool


class LinkCodec:
    """Codec of the messages between neighbours.

    Args:
        run_id: of the run; messages of another are refused.
        num_agents, num_links: the graph's sizes.
        shape: of the payload of `ratios`, `Config.exchange_shape`.
        dtype: of that payload on the wire, `float32` or `float16`.
    """

    def __init__(self, run_id: str, num_agents: int, num_links: int, shape: tuple[int, int], dtype: str) -> None:
        self._run_id = run_id
        self._array = ArrayFormat(np.dtype(dtype), shape)
        self._limits = {"sender": num_agents, "link": num_links} | dict.fromkeys(
            ("incarnation", "iteration", "k", "tip", "base"), LARGEST_NUMBER
        )

    @property
    def max_bytes(self) -> int:
        """The size of the largest frame."""
        array = self._array
        return max(MAX_HEADER_BYTES, array.dtype.itemsize * int(np.prod(array.shape)))

    def encode(self, message: LinkMessage) -> list[bytes | memoryview]:
        """Frames of one message: a header, and the payload of `ratios`, which shares the array's memory."""
        header: dict[str, Any] = {"kind": message.kind, "answered": message.answered}
        header |= {name: getattr(message, name) for name in self._limits}
        if message.u is None:
            return pack(self._run_id, header)
        header |= {"dtype": self._array.dtype.name, "shape": list(self._array.shape)}
        return pack(self._run_id, header, raw_bytes(np.ascontiguousarray(message.u, self._array.dtype)))

    def encode_probe(self, probe: Probe) -> list[bytes | memoryview]:
        """The frames of a `Probe`."""
        return pack(self._run_id, {"kind": _PROBE, **vars(probe)})

    def decode(self, frames: Frames) -> LinkMessage | Probe:
        """Unpack one message.

        Raises:
            WireError: it is malformed, or another run's.
        """
        header = unpack(frames, self._run_id)
        kind = header.text("kind", (*_LINK_KINDS, _PROBE))
        if kind == _PROBE:
            sender = header.number("sender", self._limits["sender"])
            probe = Probe(sender, header.number("stamp", LARGEST_NUMBER), header.flag("reply"))
            header.close()
            expect_frames(frames, 1)
            return probe
        numbers = {name: header.number(name, limit) for name, limit in self._limits.items()}
        answered = header.flag("answered")
        payload = None
        if kind == _RATIOS:
            header.text("dtype", (self._array.dtype.name,))
            header.shape("shape", self._array.shape)
            expect_frames(frames, 2)
            payload = self._array.unpack("payload", frames[1])
        else:
            expect_frames(frames, 1)
        header.close()
        return LinkMessage(kind=kind, answered=answered, u=payload, **numbers)  # type: ignore[arg-type]
