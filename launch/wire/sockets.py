"""ZeroMQ sockets as every process of a run uses them: they never block, and hold nothing back for later."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import zmq

from matrpo.consensus.message import Frames
from matrpo.errors import ConfigError
from matrpo.launch.cluster.keyring import Keyring, Security
from matrpo.launch.wire.authenticator import CURVE_OVERHEAD, Authenticator, protect
from matrpo.launch.wire.frames import MAX_FRAMES
from matrpo.launch.wire.limits import HEARTBEAT_ENDS, SILENCE_MS
from matrpo.launch.wire.refusals import Refusals

_BATCH = 256
_LOG = logging.getLogger(__name__)

_INBOX = 512
"""Receive high-water mark: queued messages per peer. A full queue stops libzmq's heartbeats too, and so the connection:
it must hold what comes while its reader computes for minutes."""

_LEFT_OPEN: list[object] = []

Socket = zmq.Socket[bytes]


class Received(NamedTuple):
    """A received message.

    Attributes:
        frames: what was sent; of too many, only so many as show that.
        user: the public key of the connection that it came through, where this socket listens with CURVE; else "".
    """

    frames: list[bytes]
    user: str


def make_socket(
    context: zmq.Context[Any],
    kind: int,
    endpoint: str,
    max_bytes: int,
    queue: int,
    security: Security | None = None,
    server_key: str | None = None,
) -> Socket:
    """A socket that never blocks, drops what it cannot deliver, and refuses frames above `max_bytes`.

    Args:
        context: of this process.
        kind: ROUTER for a socket that listens, DEALER for one that dials.
        endpoint: where.
        max_bytes: size of the largest frame.
        queue: messages that wait to leave, for each peer.
        security: how to talk over TCP; it may be missing for other transports alone.
        server_key: the public key of the process to dial, with CURVE.

    Raises:
        ValueError: a TCP socket without a word on security, or without the key of whom to dial.
    """
    tcp = endpoint.startswith("tcp:")
    if tcp and security is None:
        raise ValueError(f"{endpoint}: TCP needs keys, or the user's word to go without")
    socket: Socket = context.socket(kind)
    if tcp and isinstance(security, Keyring):
        if (kind == zmq.DEALER) != (server_key is not None):
            raise ValueError(f"{endpoint}: who dials, and only who dials, must know the other's key")
        protect(socket, security, server_key)
        max_bytes += CURVE_OVERHEAD
    elif tcp:
        _LOG.warning("INSECURE: no keys at %s; whoever reaches it can join in", endpoint)
    socket.setsockopt(zmq.SNDHWM, queue)
    socket.setsockopt(zmq.RCVHWM, _INBOX)
    socket.setsockopt(zmq.LINGER, 0)  # libzmq's heartbeats may abort a process whose closed sockets linger
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 3000)
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 500)
    for option in HEARTBEAT_ENDS:
        socket.setsockopt(option, context.sockopts.get(option, SILENCE_MS))
    if tcp:
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5000)
    return socket


def listen(
    context: zmq.Context[Any],
    endpoint: str,
    max_bytes: int,
    queue: int,
    security: Security | None,
    admitted: Mapping[str, str],
    refusals: Refusals,
) -> tuple[Socket, Authenticator | None]:
    """A ROUTER that listens at an endpoint, and its authenticator if it speaks CURVE.

    Args:
        context, endpoint, max_bytes, queue, security: as `make_socket` takes them.
        admitted: the public keys that may come in, and whose they are.
        refusals: where the authenticator counts everyone else.

    Raises:
        ConfigError: nothing can listen there.
    """
    encrypted = endpoint.startswith("tcp:") and isinstance(security, Keyring)
    authenticator = Authenticator(context, admitted, refusals) if encrypted else None
    socket = make_socket(context, zmq.ROUTER, endpoint, max_bytes, queue, security)
    if authenticator:
        authenticator.guard(socket)
    try:
        socket.bind(_local(endpoint))
    except zmq.ZMQError as error:
        shut(socket, authenticator)
        raise ConfigError(f"cannot listen at {endpoint}: {_reason(error)}") from None
    return socket, authenticator


def shut(socket: Socket, authenticator: Authenticator | None) -> None:
    """Close a socket that listens."""
    if authenticator:
        authenticator.close(socket)
    socket.close()


def leave_open(owner: object) -> None:
    """Leave whoever has sockets as it is until this process ends, which is now: the system closes them.

    While libzmq 4.3.5 closes a socket that messages still come to, its heartbeats may find the connection ended and
    abort the process (`!_io_error`): of 64 processes that end together, one or two.
    """
    _LEFT_OPEN.append(owner)


def _local(endpoint: str) -> str:
    """The address to bind for `endpoint`: a host name may stand for any address of this machine."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not endpoint.startswith("tcp:") or host.replace(".", "").isdecimal():
        return endpoint
    return f"tcp://{'127.0.0.1' if host == 'localhost' else '*'}:{port}"


def _reason(error: zmq.ZMQError) -> str:
    if error.errno in (errno.ENODEV, errno.EADDRNOTAVAIL):
        return "this machine does not have that address"
    return zmq.strerror(error.errno or 0)


def try_send(socket: Socket, frames: Frames) -> bool:
    """Send without blocking; False if no peer can take the message now."""
    return _send(socket, frames) == 0


def is_gone(socket: Socket, frames: Frames) -> bool:
    """Send to a peer of a ROUTER without blocking; whether its connection is gone. A full queue is not that."""
    return _send(socket, frames) == zmq.EHOSTUNREACH


def _send(socket: Socket, frames: Frames) -> int:
    """Send without waiting: 0, or why it could not be done."""
    try:
        socket.send_multipart(frames, zmq.DONTWAIT, copy=False)
    except zmq.ZMQError as error:
        if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
            raise
        return error.errno
    return 0


def waiting(socket: Socket) -> Iterator[Received]:
    """The messages in the socket's queue, but no more than a batch: nobody can keep the reader from its other work."""
    for _ in range(_BATCH):
        try:
            first = socket.recv(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return
        frames = [first.bytes]
        while socket.getsockopt(zmq.RCVMORE):
            frame = socket.recv()
            if len(frames) <= MAX_FRAMES + 1:
                frames.append(frame)
        yield Received(frames, _user(first))


def _user(frame: zmq.Frame) -> str:
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""
