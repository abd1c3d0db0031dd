"""Strangers at the authenticator of an agent: none gets in, each is counted, and who belongs does not notice."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import zmq
from marks import slow
from strangers import STRANGERS, Attempt, free_port, garbage_sender, keyring, tapped

from matrpo.consensus.message import LinkMessage
from matrpo.decentralized.lock_step.messages import Hello
from matrpo.launch.cluster.keyring import PLAIN
from matrpo.launch.cluster.keys import KeyPair
from matrpo.launch.wire.authenticator import Authenticator, protect
from matrpo.launch.wire.channels import AgentChannel, ServerChannel
from matrpo.launch.wire.environment_codec import EnvironmentCodec
from matrpo.launch.wire.frames import WireError
from matrpo.launch.wire.link_codec import LinkCodec
from matrpo.launch.wire.link_transport import LinkTransport
from matrpo.launch.wire.refusals import Refusals, TokenBucket
from matrpo.launch.wire.sockets import listen, make_socket, try_send
from matrpo.spaces import Discrete, TaskSpec
from matrpo.topology import CommunicationGraph

LINE = CommunicationGraph(3, ((0, 1), (1, 2)), "line")
LINKS = LinkCodec("run", 3, 2, (3, 4), "float32")
FOREIGN = LinkCodec("other run", 3, 2, (3, 4), "float32")
SPEC = TaskSpec("made-up", ("a", "b", "c"), (3, 3, 3), (Discrete(5), Discrete(5), Discrete(5)))
LINES = EnvironmentCodec("run", SPEC, 2)
MEBIBYTE = 1 << 20
MEMORY = 100 * MEBIBYTE
"""By how much strangers may make a process grow."""


class House:
    """Agent 1 of three, which listens; agent 0 belongs there. Every process has a context of its own."""

    def __init__(self) -> None:
        self.agents = [KeyPair.make() for _ in range(3)]
        self.environment = KeyPair.make()
        self.ports = [free_port() for _ in range(3)]
        self._contexts: dict[LinkTransport, zmq.Context[Any]] = {}
        self.host = self.transport(1)

    def transport(self, agent: int, codec: LinkCodec = LINKS, port: int | None = None) -> LinkTransport:
        """The links of an agent, which dials agent 1 at another port if one is given."""
        context: zmq.Context[Any] = zmq.Context()
        endpoints = [f"tcp://127.0.0.1:{port}" for port in self.ports]
        if port is not None:
            endpoints[1] = f"tcp://127.0.0.1:{port}"
        ring = keyring(self.agents[agent], self.agents, self.environment)
        transport = LinkTransport(agent, LINE, endpoints, codec, context, ring)
        self._contexts[transport] = context
        return transport

    def leave(self, transport: LinkTransport) -> None:
        """End a process."""
        transport.close()
        self._contexts.pop(transport).term()

    def talk(self, guest: LinkTransport, k: int) -> None:
        """Let agent 0 say something that agent 1 hears."""
        until(lambda: (guest.receive(), guest.send(1, ratios(k)))[1])
        until(lambda: any(isinstance(event, LinkMessage) and event.k == k for event in self.host.receive()))

    def close(self) -> None:
        for transport in list(self._contexts):
            self.leave(transport)


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.close()


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def ratios(k: int, sender: int = 0) -> LinkMessage:
    return LinkMessage("ratios", sender, 0, 1, 0, k, u=np.full((3, 4), k / 8, np.float32))


def recorded_session(house: House) -> bytes:
    """What agent 0 sends to agent 1 through the network, from its first byte to its last."""
    with tapped(house.ports[1]) as (port, heard):
        guest = house.transport(0, port=port)
        house.talk(guest, 1)
        house.leave(guest)
    assert len(heard) > 500
    return bytes(heard)


def knock(house: House, stranger: Callable[[Attempt], None], attempts: int, recorded: bytes) -> None:
    """Let a stranger try, again and again; nothing may come of it but the count."""
    host, reason = house.host, STRANGERS[stranger]
    before = host.refusals.counts.get(reason, 0)
    tried = [before]

    def failed() -> None:
        tried[0] += 1
        until(lambda: host.refusals.counts.get(reason, 0) >= tried[0])

    server = house.agents[1].public
    frames = [bytes(frame) for frame in LINKS.encode(ratios(9))]
    for _ in range(attempts):
        stranger(Attempt(house.ports[1], server, frames, failed, recorded))
        assert not any(isinstance(event, LinkMessage) for event in host.receive())
    assert host.refusals.counts[reason] - before == attempts
    assert all(traffic.messages_received == 0 for traffic in host.traffic.values()) or recorded


@pytest.mark.parametrize("stranger", STRANGERS, ids=lambda stranger: stranger.__name__)
@pytest.mark.parametrize("attempts", [10, slow(1000)])
def test_strangers_stay_outside(
    house: House, stranger: Callable[[Attempt], None], attempts: int, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = recorded_session(house) if "replay" in stranger.__name__ else b""
    with caplog.at_level(logging.WARNING):
        knock(house, stranger, attempts, recorded)
    assert set(house.host.refusals.counts) == {STRANGERS[stranger]}
    assert f"refused number 1 ({STRANGERS[stranger]}) from the network" in caplog.messages[0]
    assert len(caplog.messages) == attempts.bit_length(), "the log grows with the logarithm of the count"
    house.talk(house.transport(0), 2)


def test_a_neighbour_of_another_run_that_has_the_right_keys_is_refused(house: House) -> None:
    guest = house.transport(0, FOREIGN)
    until(lambda: (guest.receive(), guest.send(1, ratios(1)))[1])
    until(lambda: (house.host.receive(), house.host.refusals.counts.get("foreign run"))[1])
    assert set(house.host.refusals.counts) == {"foreign run"}
    assert house.host.traffic[0].messages_received == 0


def test_an_agent_of_the_run_that_is_no_neighbour_stays_outside(house: House) -> None:
    ring = keyring(house.agents[2], house.agents, house.environment)
    endpoint = f"tcp://127.0.0.1:{house.ports[1]}"
    with zmq.Context() as context:
        dealer = make_socket(context, zmq.DEALER, endpoint, 4096, 4, ring, house.agents[1].public)
        with dealer:
            dealer.connect(endpoint)
            until(lambda: house.host.refusals.counts == {"unlisted key": 1})


def test_nobody_speaks_for_another(house: House) -> None:
    """At the environment server all agents are admitted: the key says who is who."""
    with zmq.Context() as server_context, zmq.Context() as context:
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        ring = keyring(house.environment, house.agents, house.environment)
        server = ServerChannel(endpoint, LINES, server_context, ring)
        line = AgentChannel(0, endpoint, LINES, context, keyring(house.agents[2], house.agents, house.environment))
        until(lambda: (line.monitor.changes(), line.send(Hello(0, 0, 1)))[1])
        heard: list[object] = []
        until(lambda: (heard.extend(server.receive()), server.refusals.counts.get("wrong sender"))[1])
        assert heard == []
        line.send(Hello(2, 0, 1))
        until(lambda: [message for _, message in server.receive()] == [Hello(2, 0, 1)])
        line.close()
        server.close()


def test_without_an_authenticator_nobody_gets_in() -> None:
    server, client = KeyPair.make(), KeyPair.make()
    ring = keyring(client, [client], server)
    with zmq.Context() as server_context, zmq.Context() as context, server_context.socket(zmq.ROUTER) as socket:
        protect(socket, keyring(server, [client], server), None)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        with make_socket(context, zmq.DEALER, "tcp:", 4096, 4, ring, server.public) as dealer:
            dealer.connect(f"tcp://127.0.0.1:{port}")
            assert not dealer.poll(500, zmq.POLLOUT)


def test_a_door_that_breaks_stays_shut() -> None:
    server, client = KeyPair.make(), KeyPair.make()
    refusals = Refusals("the network")
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with zmq.Context() as server_context, zmq.Context() as context:
        ring = keyring(server, [client], server)
        socket, authenticator = listen(server_context, endpoint, 4096, 4, ring, {client.public: "agent 0"}, refusals)
        assert authenticator is not None
        with pytest.raises(RuntimeError, match="cannot start the authenticator: Address already in use"):
            Authenticator(server_context, {}, refusals)
        authenticator.close(socket)
        with make_socket(context, zmq.DEALER, "tcp:", 4096, 4, ring, server.public) as dealer:
            dealer.connect(endpoint)
            assert not dealer.poll(500, zmq.POLLOUT)
        socket.close()


def test_a_tcp_socket_needs_a_word_on_security() -> None:
    pair = KeyPair.make()
    ring = keyring(pair, [pair], pair)
    with zmq.Context() as context:
        with pytest.raises(ValueError, match="TCP needs keys"):
            make_socket(context, zmq.DEALER, "tcp://127.0.0.1:1", 4096, 4)
        with pytest.raises(ValueError, match="must know the other's key"):
            make_socket(context, zmq.DEALER, "tcp://127.0.0.1:1", 4096, 4, ring)
        make_socket(context, zmq.DEALER, "tcp://127.0.0.1:1", 4096, 4, PLAIN).close()
        context.destroy(0)


def test_a_port_that_someone_else_held_for_a_moment_is_dialled_again(house: House) -> None:
    """libzmq alone would give up for ever on a server that answers anything else than CURVE."""
    house.leave(house.host)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as usurper:
        usurper.bind(f"tcp://127.0.0.1:{house.ports[1]}")
        guest = house.transport(0)
        monitor = guest._monitors[1]
        until(lambda: (guest.receive(), monitor._redial_at)[1])
    house.host = house.transport(1)
    house.talk(guest, 1)


def test_an_admitted_peer_that_floods_is_limited(house: House) -> None:
    """It takes its share of the reader's time, no more; `receive` returns however much there is to read."""
    ring = keyring(house.agents[0], house.agents, house.environment)
    endpoint = f"tcp://127.0.0.1:{house.ports[1]}"
    beat = LINKS.encode(LinkMessage("beat", 0, 0, 1, 0, 1))
    house.host._limits._buckets.default_factory = lambda: TokenBucket(now=lambda: 0.0)  # a slow machine floods slowly
    before = psutil.Process().memory_info().rss
    over = threading.Event()

    def flood() -> None:
        server = house.agents[1].public
        with zmq.Context() as context, make_socket(context, zmq.DEALER, endpoint, 4096, 99, ring, server) as peer:
            peer.connect(endpoint)
            while not over.is_set():
                if not try_send(peer, beat):
                    peer.poll(100, zmq.POLLOUT)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        until(lambda: house.host.receive() is None or house.host.refusals.counts.get("too many messages", 0) > 100, 30)
    finally:
        over.set()
        thread.join()
    assert psutil.Process().memory_info().rss - before < MEMORY
    assert set(house.host.refusals.counts) == {"too many messages"}


def test_the_bucket_allows_a_burst_and_then_a_rate() -> None:
    now = [0.0]
    bucket = TokenBucket(rate=10.0, burst=5.0, now=lambda: now[0])
    assert [bucket.allows() for _ in range(7)] == [True] * 5 + [False] * 2
    now[0] = 0.25
    assert [bucket.allows() for _ in range(4)] == [True, True, False, False]
    now[0] = 100.0
    assert sum(bucket.allows() for _ in range(10)) == 5


def test_the_log_names_the_first_of_each_reason_and_is_short(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals("a test")
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            refusals.add(WireError("x" * 1000, "one" if number % 2 else "other"))
    assert refusals.counts == {"one": 500, "other": 500}
    assert refusals.total == 1000
    assert len(caplog.messages) == 18
    assert max(map(len, caplog.messages)) < 300


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + b"\0" + bytes(31)


@pytest.mark.slow
@pytest.mark.parametrize(
    "greeting", [b"", GREETING, GREETING + b"\x06" + bytes(6) + b"\x08\x00"], ids=["raw", "zmtp", "long"]
)
def test_garbage_at_full_speed_does_not_stop_a_link(house: House, greeting: bytes) -> None:
    """Slow, as a flood may end this very process: `THREATS.md`, a stranger's garbage at the wrong moment."""
    seconds = 10.0
    guest = house.transport(0)
    house.talk(guest, 1)
    memory = psutil.Process(os.getpid()).memory_info
    before, k = memory().rss, 1
    with garbage_sender(house.ports[1], greeting) as sender:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            k += 1
            house.talk(guest, k)
            assert memory().rss - before < MEMORY
        sender.kill()
        assert sender.stdout is not None
        last = ([line for line in sender.stdout if line.endswith("\n")] or ["0 0"])[-1].split()
    print(
        f"{int(last[0]) / MEBIBYTE / seconds:.0f} MiB/s, {last[1]} connections, {k} messages, {memory().rss - before} B"
    )
    until(lambda: house.host.refusals.total > 0)
