"""Encryption and authentication over TCP: CURVE on every socket, and an authenticator that admits listed keys alone.

A process that dials knows the public key of the process it dials: nobody else can answer. A process that listens asks
its authenticator about every key (ZeroMQ's RFC 27), and without one libzmq lets nobody in.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Mapping
from typing import Any

import zmq
from zmq.utils import z85

from matrpo.launch.cluster.keyring import Keyring
from matrpo.launch.wire.frames import WireError
from matrpo.launch.wire.limits import allow_open_files
from matrpo.launch.wire.refusals import Refusals

CURVE_OVERHEAD = 64
"""Upper bound on the bytes that encryption adds to a frame."""

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_DOMAIN = b"matrpo"
_EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_ACCEPT_FAILED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_MONITOR_STOPPED
)


def protect(socket: zmq.Socket[bytes], keyring: Keyring, server_key: str | None) -> None:
    """Configure a socket to speak CURVE only, before it binds or connects.

    Args:
        socket: any.
        keyring: of this process.
        server_key: the public key of the process to dial; None for a socket that listens.
    """
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keyring.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, keyring.secret.encode())
    if server_key is not None:
        socket.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode())
    else:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


class Authenticator:
    """Admits connections with listed keys to a listening socket, and counts all others, in a thread of its own.

    A process has one at most, made before the socket binds. When anything goes wrong in the thread, nobody is let in.

    Args:
        context: of the socket.
        admitted: the public keys that may come in, and whose they are.
        refusals: where everyone else is counted.

    Raises:
        RuntimeError: the context has an authenticator already.
    """

    def __init__(self, context: zmq.Context[Any], admitted: Mapping[str, str], refusals: Refusals) -> None:
        self._context = context
        self._admitted = dict(admitted)
        self._refusals = refusals
        self._undecided: dict[int, None] = {}
        self._explained = False
        self._denied = 0
        self._zap = context.socket(zmq.ROUTER)
        self._zap.setsockopt(zmq.LINGER, 0)
        try:
            self._zap.bind(_ZAP_ENDPOINT)
        except zmq.ZMQError as error:
            self._zap.close()
            raise RuntimeError(f"cannot start the authenticator: {zmq.strerror(error.errno or 0)}") from None
        self._monitor: zmq.Socket[bytes] | None = None
        self._thread: threading.Thread | None = None

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Start to authenticate connections to this socket, which is about to bind."""
        allow_open_files()  # Strangers' connections, each open for a few seconds, count against the limit.
        # A monitor that is not read in time would block libzmq's I/O thread: hence a thread, which does nothing else.
        self._monitor = socket.get_monitor_socket(_EVENTS)
        self._thread = threading.Thread(target=self._work, name="authenticator", daemon=True)
        self._thread.start()

    def close(self, socket: zmq.Socket[bytes]) -> None:
        """Stop admitting connections; call it before the socket is closed."""
        if self._thread is None:
            self._zap.close()
            return
        socket.disable_monitor()
        self._thread.join()
        self._thread = None

    def _work(self) -> None:
        assert self._monitor is not None
        poller = zmq.Poller()
        poller.register(self._zap, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        try:
            with contextlib.suppress(zmq.ContextTerminated):
                watching = True
                while watching:
                    ready = dict(poller.poll())
                    if self._zap in ready:
                        self._authenticate(self._zap.recv_multipart())
                    if self._monitor in ready:
                        watching = self._note(self._monitor.recv_multipart())
        finally:
            self._zap.close(0)
            self._monitor.close(0)

    def _authenticate(self, request: list[bytes]) -> None:
        """Answer one authentication request of libzmq: is this key admitted?"""
        route, empty, version, number, _, address, _, mechanism, *credentials = request
        key = z85.encode(credentials[0]).decode() if mechanism == b"CURVE" and credentials else ""
        admitted = key in self._admitted
        if not admitted:
            self._denied += 1
            where = address.decode(errors="replace")
            self._refusals.add(WireError(f"{where} came with the key {key}, which is not listed", "unlisted key"))
        status = [b"200", b"", key.encode()] if admitted else [b"400", b"", b""]
        self._zap.send_multipart([route, empty, version, number, *status, b""])

    def _note(self, message: list[bytes]) -> bool:
        """Handle one event of the socket's monitor; False if there are no more.

        Connections are told apart by their number, which some events lack: those are taken to be about the oldest.
        One that ends undecided, and for no reason that libzmq gives, did not speak ZeroMQ's protocol at all.
        """
        event, value = struct.unpack("=Hi", message[0])
        if event == zmq.EVENT_ACCEPTED:
            self._undecided[value] = None
        elif event in (zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_HANDSHAKE_FAILED_AUTH):
            self._undecided.pop(next(iter(self._undecided), -1), None)
            self._denied -= event == zmq.EVENT_HANDSHAKE_FAILED_AUTH
        elif event in (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
            self._count_unless_denied(*_explanation(event, value))
            self._explained = True
        elif event == zmq.EVENT_DISCONNECTED:
            if value in self._undecided and not self._explained:
                self._count_unless_denied("a connection that did not speak ZMTP", "not ZMTP")
            self._undecided.pop(value, None)
            self._explained = False
        elif event == zmq.EVENT_ACCEPT_FAILED:
            self._refusals.add(WireError(f"a connection that failed: {zmq.strerror(value)}", "no room"))
        return bool(event != zmq.EVENT_MONITOR_STOPPED)

    def _count_unless_denied(self, text: str, reason: str) -> None:
        """Count a connection that failed. One whose key was denied may leave before libzmq tells it, and has been."""
        if self._denied:
            self._denied -= 1
        else:
            self._refusals.add(WireError(text, reason))


def _explanation(event: int, value: int) -> tuple[str, str]:
    """Why a handshake failed: a line for the log, and the reason in two words."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return f"a connection that ended before it said who it is: {zmq.strerror(value)}", "no key"
    if value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        return "a connection without CURVE", "no key"
    return f"a connection for another server key, a replayed or a damaged one (code {value:#x})", "bad handshake"
