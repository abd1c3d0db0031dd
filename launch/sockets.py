"""ZeroMQ sockets as every process of a run uses them: they never block, and hold nothing back for later."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import zmq

from matrpo.config import ConfigError
from matrpo.launch.wire import MAX_FRAMES, Frames, WireError

GOODBYE_MS = 1000
"""Milliseconds that a closed socket has to send what is left."""

_LOG = logging.getLogger(__name__)

Socket = zmq.Socket[bytes]


class Refusals:
    """Counts refused messages and names them in the log: the first, then ever fewer, so that nobody can flood it."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._count = 0

    def add(self, error: WireError) -> None:
        """Count one more."""
        self._count += 1
        if self._count & (self._count - 1) == 0:
            _LOG.warning("refused message number %d from %s: %s", self._count, self._origin, error)


def make_socket(context: zmq.Context[Any], kind: int, endpoint: str, max_bytes: int, queue: int) -> Socket:
    """A socket that never blocks, drops what it cannot deliver, and refuses frames above `max_bytes`."""
    socket: Socket = context.socket(kind)
    socket.setsockopt(zmq.SNDHWM, queue)
    socket.setsockopt(zmq.RCVHWM, queue)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 3000)
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    if endpoint.startswith("tcp:"):
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5000)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 500)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 1500)
        socket.setsockopt(zmq.HEARTBEAT_TTL, 1500)
    return socket


def bind(socket: Socket, endpoint: str) -> None:
    """Listen at an endpoint.

    Raises:
        ConfigError: nothing can listen there.
    """
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise ConfigError(f"cannot listen at {endpoint}: {zmq.strerror(error.errno or 0)}") from None


def try_send(socket: Socket, frames: Frames) -> bool:
    """Send without waiting; False if nobody can take the message now."""
    try:
        socket.send_multipart(frames, zmq.DONTWAIT, copy=False)
    except zmq.Again:
        return False
    except zmq.ZMQError as error:
        if error.errno != zmq.EHOSTUNREACH:
            raise
        return False
    return True


def waiting(socket: Socket) -> Iterator[list[bytes]]:
    """The messages in the socket's queue. Of one with too many frames only so many are kept as show that."""
    while True:
        try:
            frames = [socket.recv(zmq.DONTWAIT)]
        except zmq.Again:
            return
        while socket.getsockopt(zmq.RCVMORE):
            frame = socket.recv()
            if len(frames) <= MAX_FRAMES + 1:
                frames.append(frame)
        yield frames
