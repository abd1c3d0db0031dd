"""Messages of log ratios between neighbours: encoding and decoding them, and the round trip between two processes."""

from __future__ import annotations

import dataclasses
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import zmq

from matrpo.consensus.message import LinkMessage
from matrpo.experiments.bench.report import Report, Row, Say
from matrpo.launch.wire.link_codec import LinkCodec
from matrpo.launch.wire.link_transport import LinkTransport
from matrpo.topology import CommunicationGraph, make_graph

_RUN_ID = "benchmark"
_LONGEST_WAIT = 10_000
"""Timeout in milliseconds of a round trip, after which the measurement is given up."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One kind of message.

    Attributes:
        agents, samples: N and M of its payload.
        dtype: of log ratios on the wire.
    """

    agents: int
    samples: int
    dtype: str

    def codec(self) -> LinkCodec:
        """The codec of the case's messages."""
        return LinkCodec(_RUN_ID, self.agents, len(_graph().links), (self.agents, self.samples), self.dtype)

    def message(self) -> LinkMessage:
        """A message as agent 0 sends it."""
        shape = (self.agents, self.samples)
        ratios = np.random.default_rng(0).normal(0.0, 0.1, shape).astype(self.dtype)
        return LinkMessage("ratios", sender=0, incarnation=0, iteration=1, link=0, k=2, tip=1, u=ratios)


@dataclasses.dataclass(frozen=True)
class RoundTrip:
    """A round trip between two processes: median seconds on the clock, mean CPU seconds of both together."""

    seconds: float
    cpu_seconds: float


def run(agents: int, samples: int, quick: bool, say: Say) -> Report:
    """Measure messages of `agents` x `samples` log ratios in both wire types.

    Args:
        agents: N.
        samples: M.
        quick: few repetitions.
        say: told about the progress.
    """
    repeats = 20 if quick else 400
    packing: list[Row] = []
    trips: list[Row] = []
    for dtype in ("float32", "float16"):
        case = Case(agents, samples, dtype)
        say(f"{dtype}: packing")
        packing.append(_measure_packing(case, repeats))
        say(f"{dtype}: round trips")
        trips.append(_measure_trips(case, repeats))
    settings = {"agents": agents, "samples": samples, "transport": "ipc", "repeats": repeats}
    return Report("wire", settings, {"packing, CPU time": packing, "round trips over ipc": trips})


def _measure_packing(case: Case, repeats: int) -> Row:
    codec, message = case.codec(), case.message()
    frames = [bytes(frame) for frame in codec.encode(message)]
    source = np.frombuffer(frames[1], np.uint8)
    target = np.empty_like(source)
    encode = _median_cpu_seconds(lambda: codec.encode(message), repeats)
    decode = _median_cpu_seconds(lambda: codec.decode(frames), repeats)
    copy = _median_cpu_seconds(lambda: np.copyto(target, source), repeats)
    size = sum(map(len, frames))
    return {
        "dtype": case.dtype,
        "message_bytes": size,
        "payload_bytes": len(frames[1]),
        "encode_us": 1e6 * encode,
        "decode_us": 1e6 * decode,
        "messages_per_cpu_second": 1.0 / (encode + decode),
        "memcpy_us": 1e6 * copy,
        "memcpy_MB_per_second": 1e-6 * len(source) / copy,
    }


def _measure_trips(case: Case, repeats: int) -> Row:
    size = sum(map(len, case.codec().encode(case.message())))
    with tempfile.TemporaryDirectory(prefix="matrpo-bench-") as folder:
        bare = _bare_trips(f"ipc://{folder}/bare", size, repeats)
        ours = _link_trips([f"ipc://{folder}/agent-{agent}" for agent in range(2)], case, repeats)
    return {
        "dtype": case.dtype,
        "round_trip_ms": 1e3 * ours.seconds,
        "bare_pair_ms": 1e3 * bare.seconds,
        "share_of_limit": bare.seconds / ours.seconds,
        "messages_per_second": 2.0 / ours.seconds,
        "MB_per_second": 2e-6 * size / ours.seconds,
        "bare_MB_per_second": 2e-6 * size / bare.seconds,
        "cpu_ms": 1e3 * ours.cpu_seconds,
        "bare_cpu_ms": 1e3 * bare.cpu_seconds,
    }


def _link_trips(endpoints: list[str], case: Case, repeats: int) -> RoundTrip:
    """Round trips through the agents' own sockets and codec, at both ends."""
    message = case.message()
    with _echo(_echo_link, (endpoints, case)) as echo, zmq.Context() as context:
        transport = LinkTransport(0, _graph(), endpoints, case.codec(), context)
        until = time.monotonic() + 1e-3 * _LONGEST_WAIT
        while transport.unreached:
            transport.receive()
            if time.monotonic() > until:
                raise RuntimeError("the other process does not answer")
            time.sleep(0.01)

        def trip() -> None:
            if not transport.send(1, message):
                raise RuntimeError("a message could not be sent")
            _receive(transport)

        measured = _measure_trip(trip, echo, repeats)
        transport.close()
    return measured


def _bare_trips(endpoint: str, size: int, repeats: int) -> RoundTrip:
    """Round trips of the same number of bytes in one frame, over a bare pair of sockets."""
    payload = bytes(size)
    with _echo(_echo_bytes, (endpoint,)) as echo, zmq.Context() as context:
        socket = context.socket(zmq.PAIR)
        socket.setsockopt(zmq.RCVTIMEO, _LONGEST_WAIT)
        socket.bind(endpoint)

        def trip() -> None:
            socket.send(payload, copy=False)
            socket.recv(copy=False)

        measured = _measure_trip(trip, echo, repeats)
        socket.close()
    return measured


def _echo_link(endpoints: list[str], case: Case) -> None:
    """Agent 1: send every message back as its own, until killed."""
    transport = LinkTransport(1, _graph(), endpoints, case.codec(), zmq.Context())
    while True:
        message = _receive(transport)
        transport.send(0, dataclasses.replace(message, sender=1))


def _echo_bytes(endpoint: str) -> None:
    socket = zmq.Context().socket(zmq.PAIR)
    socket.connect(endpoint)
    while True:
        socket.send(socket.recv(copy=False), copy=False)


def _receive(transport: LinkTransport) -> LinkMessage:
    poller = zmq.Poller()
    for socket in transport.sockets:
        poller.register(socket, zmq.POLLIN)
    while poller.poll(_LONGEST_WAIT):
        for message in transport.receive():
            if isinstance(message, LinkMessage):
                return message
    raise RuntimeError("no message arrived")


@contextmanager
def _echo(work: Callable[..., None], arguments: tuple[Any, ...]) -> Iterator[psutil.Process]:
    """Run an echo function in a process of its own, within the block."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments, daemon=True)
    process.start()
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.join()


def _measure_trip(trip: Callable[[], None], echo: psutil.Process, repeats: int) -> RoundTrip:
    trip()
    before = time.process_time() + _used(echo)
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        trip()
        seconds.append(time.perf_counter() - begin)
    cpu_seconds = (time.process_time() + _used(echo) - before) / repeats
    return RoundTrip(statistics.median(seconds), cpu_seconds)


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _graph() -> CommunicationGraph:
    return make_graph("line", 2, 0)


def _median_cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    batch = 10
    series = []
    for _ in range(repeats):
        begin = time.process_time()
        for _ in range(batch):
            work()
        series.append((time.process_time() - begin) / batch)
    return statistics.median(series)
