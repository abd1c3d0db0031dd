"""Those who do not belong: each tries once to get through the authenticator of a socket that listens, and fails."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import zmq

from matrpo.launch.cluster.keyring import Keyring
from matrpo.launch.cluster.keys import KeyPair
from matrpo.launch.wire.sockets import make_socket

_PATIENCE = 10.0


@dataclass(frozen=True)
class Attempt:
    """What a stranger knows.

    Attributes:
        port: of the listening socket, on this machine.
        server: its public key.
        frames: a message that would be taken in if it came from the right one.
        failed: waits until the authenticator has counted one more refusal.
        recorded: what an admitted process once sent through the network, as bytes.
    """

    port: int
    server: str
    frames: list[bytes]
    failed: Callable[[], None]
    recorded: bytes


def free_port() -> int:
    """A TCP port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def keyring(own: KeyPair, agents: list[KeyPair], environment: KeyPair) -> Keyring:
    """What the process with the pair `own` knows."""
    return Keyring(own.public, own.secret, tuple(pair.public for pair in agents), environment.public)


def without_a_key(attempt: Attempt) -> None:
    """A ZeroMQ client as it comes out of the box."""
    with _client(attempt):
        attempt.failed()


def with_a_password(attempt: Attempt) -> None:
    """A client that speaks ZeroMQ's plaintext mechanism."""
    with _client(attempt, plain_username=b"agent", plain_password=b"0"):
        attempt.failed()


def with_an_unlisted_key(attempt: Attempt) -> None:
    """A client with a key of its own making."""
    own = KeyPair.make()
    with _client(attempt, **_curve(own, attempt.server)):
        attempt.failed()


def with_the_wrong_server_key(attempt: Attempt) -> None:
    """A client that expects another server."""
    own, other = KeyPair.make(), KeyPair.make()
    with _client(attempt, **_curve(own, other.public)):
        attempt.failed()


def of_another_run(attempt: Attempt) -> None:
    """A process of another run, which has keys as it should, and dials the wrong port."""
    pairs = [KeyPair.make() for _ in range(4)]
    endpoint = f"tcp://127.0.0.1:{attempt.port}"
    with zmq.Context() as context:
        ring = keyring(pairs[0], pairs[:3], pairs[3])
        dealer = make_socket(context, zmq.DEALER, endpoint, 4096, 4, ring, attempt.server)
        with dealer:
            dealer.setsockopt(zmq.IMMEDIATE, 0)
            dealer.connect(endpoint)
            with contextlib.suppress(zmq.Again):  # refused already
                dealer.send_multipart(attempt.frames, zmq.DONTWAIT)
            attempt.failed()


def replaying_a_session(attempt: Attempt) -> None:
    """Says again, byte for byte, what an admitted process once said."""
    with _raw(attempt, attempt.recorded):
        attempt.failed()


def asking_for_a_web_page(attempt: Attempt) -> None:
    """A client of another protocol."""
    with _raw(attempt, b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n"):
        attempt.failed()


def scanning_ports(attempt: Attempt) -> None:
    """Connects, and leaves without a word."""
    with _raw(attempt, b""):
        pass
    attempt.failed()


STRANGERS = {
    without_a_key: "no key",
    with_a_password: "no key",
    with_an_unlisted_key: "unlisted key",
    with_the_wrong_server_key: "bad handshake",
    of_another_run: "unlisted key",
    replaying_a_session: "bad handshake",
    asking_for_a_web_page: "not ZMTP",
    scanning_ports: "no key",
}
"""All strangers, and the reason for which each is refused."""


@contextlib.contextmanager
def tapped(port: int) -> Iterator[tuple[int, bytearray]]:
    """A TCP proxy in front of a port, and what has gone through it in its direction."""
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def pass_on(source: socket.socket, target: socket.socket, record: bytearray | None) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(1 << 16):
                    if record is not None:
                        record += data
                    target.sendall(data)

        def work() -> None:
            with contextlib.suppress(OSError):
                client, _ = listener.accept()
                with client, socket.create_connection(("127.0.0.1", port)) as server:
                    back = threading.Thread(target=pass_on, args=(server, client, None))
                    back.start()
                    pass_on(client, server, heard)
                    server.shutdown(socket.SHUT_RDWR)
                    back.join()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield listener.getsockname()[1], heard
        listener.close()
        thread.join(_PATIENCE)


@contextlib.contextmanager
def garbage_sender(port: int, greeting: bytes) -> Iterator[subprocess.Popen[str]]:
    """A process that sends garbage as fast as it can, after this greeting, and dials again whenever it is cut off."""
    script = f"""
import os, socket, time
junk = {greeting!r} + os.urandom(1 << 20)
sent, began, connections = 0, time.monotonic(), 0
while True:
    try:
        with socket.create_connection(("127.0.0.1", {port}), 1.0) as client:
            connections += 1
            while True:
                client.sendall(junk)
                sent += len(junk)
    except OSError:
        sent += 1
    if time.monotonic() - began > 0.5:
        print(sent, connections, flush=True)
        began = time.monotonic()
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _curve(own: KeyPair, server: str) -> dict[str, bytes]:
    return {
        "curve_publickey": own.public.encode(),
        "curve_secretkey": own.secret.encode(),
        "curve_serverkey": server.encode(),
    }


@contextlib.contextmanager
def _client(attempt: Attempt, **options: bytes) -> Iterator[None]:
    """A ZeroMQ client with these options that dials once and has something to say."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        for name, value in options.items():
            setattr(dealer, name, value)
        dealer.connect(f"tcp://127.0.0.1:{attempt.port}")
        with contextlib.suppress(zmq.Again):  # refused already
            dealer.send_multipart(attempt.frames, zmq.DONTWAIT)
        yield


@contextlib.contextmanager
def _raw(attempt: Attempt, data: bytes) -> Iterator[None]:
    with socket.create_connection(("127.0.0.1", attempt.port)) as client:
        with contextlib.suppress(OSError):
            client.sendall(data)
        yield
