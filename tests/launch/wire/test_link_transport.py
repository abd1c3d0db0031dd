from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import zmq

from matrpo.consensus.message import LinkMessage
from matrpo.decentralized.lock_step.messages import Action, Bye, Hello, Observation, Stop
from matrpo.envs.shared import AgentStep
from matrpo.errors import ConfigError
from matrpo.faults import gate as fault_gate
from matrpo.faults.fault import Fault, Position, Trigger
from matrpo.faults.gate import FaultGate
from matrpo.launch.cluster.keyring import PLAIN
from matrpo.launch.wire import channels, watch
from matrpo.launch.wire.channels import AgentChannel, ServerChannel
from matrpo.launch.wire.environment_codec import EnvironmentCodec
from matrpo.launch.wire.frames import MAX_FRAMES
from matrpo.launch.wire.link_codec import LinkCodec
from matrpo.launch.wire.link_transport import LinkTransport, Lost
from matrpo.spaces import Discrete, TaskSpec
from matrpo.topology import CommunicationGraph

T = TypeVar("T")

LINE = CommunicationGraph(3, ((0, 1), (1, 2)), "line")
SPEC = TaskSpec("made-up", ("a", "b"), (3, 3), (Discrete(5), Discrete(5)))
LINKS = LinkCodec("run", 3, 2, (3, 4), "float32")
HELLO = Hello(0, 1, 1)
LINES = EnvironmentCodec("run", SPEC, 2)


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with zmq.Context() as context:
        yield context


@pytest.fixture(params=["ipc", "tcp"])
def endpoints(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    if request.param == "ipc":
        return [f"ipc://{tmp_path}/{agent}" for agent in range(3)]
    with zmq.Context() as context:
        sockets = [context.socket(zmq.ROUTER) for _ in range(3)]
        ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in sockets]
        context.destroy(0)
    return [f"tcp://127.0.0.1:{port}" for port in ports]


def until(attempt: Callable[[], T]) -> T:
    """What `attempt` gives as soon as it gives anything, within ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if result := attempt():
            return result
        zmq.select([], [], [], 0.01)
    raise AssertionError("nothing came in ten seconds")


def messages(transport: LinkTransport) -> list[LinkMessage]:
    """What neighbours have said since the last call."""
    return [event for event in transport.receive() if isinstance(event, LinkMessage)]


def connect(*transports: LinkTransport) -> None:
    """Let the first agents of `LINE`, in order, find each other."""
    absent = range(len(transports), 3)
    until(lambda: [t.receive() for t in transports] and not any(set(t.unreached) - set(absent) for t in transports))


def say(line: AgentChannel, message: Hello | Action | Bye) -> None:
    """Send as soon as the server is there."""
    until(lambda: [line.monitor.changes()] and line.send(message))


def ratios(sender: int, link: int, k: int = 1) -> LinkMessage:
    return LinkMessage("ratios", sender, 0, 1, link, k, u=np.full((3, 4), sender + k / 8, np.float32))


def test_neighbours_exchange_messages_both_ways(context: zmq.Context[Any], endpoints: list[str]) -> None:
    agents = [LinkTransport(agent, LINE, endpoints, LINKS, context, PLAIN) for agent in range(3)]
    connect(*agents)
    for sender, receiver, link in ((0, 1, 0), (1, 0, 0), (1, 2, 1), (2, 1, 1)):
        until(lambda sender=sender, receiver=receiver, link=link: agents[sender].send(receiver, ratios(sender, link)))
        [message] = until(lambda receiver=receiver: messages(agents[receiver]))
        assert (message.sender, message.link) == (sender, link)
        assert message.u is not None
        np.testing.assert_array_equal(message.u, ratios(sender, link).u)
    for agent in agents:
        agent.close()


def test_bytes_are_counted_where_they_are_sent(context: zmq.Context[Any], endpoints: list[str]) -> None:
    a, b = (LinkTransport(agent, LINE, endpoints, LINKS, context, PLAIN) for agent in (0, 1))
    connect(a, b)
    until(lambda: a.send(1, ratios(0, 0)))
    assert len(until(lambda: messages(b))) == 1
    until(lambda: a.receive() or (sent(a, 1) == received(b, 0) and sent(b, 0) == received(a, 1)))
    assert sent(a, 1)[1] >= sum(map(len, LINKS.encode(ratios(0, 0))))
    assert sent(b, 0)[0] >= 1, "its answer to a probe"
    a.close()
    b.close()


def test_a_scripted_partition_is_noticed_and_heals_in_both_directions(
    context: zmq.Context[Any], endpoints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fault_gate, "NOTICED_AFTER", 0.2)
    fault = Fault(0, "partition", directions=frozenset({(0, 1), (1, 0)}), amounts={}, begin=Trigger(2), end=Trigger(3))
    gates = [FaultGate([fault], agent, [1 - agent], seed=0) for agent in (0, 1)]
    a, b = (LinkTransport(agent, LINE, endpoints, LINKS, context, PLAIN, gate) for agent, gate in enumerate(gates))

    def move(iteration: int) -> None:
        for gate in gates:
            gate.activity.move(Position(iteration, "rollout", 0, float(iteration)))

    move(1)
    connect(a, b)
    move(2)
    until(lambda: Lost(1) in a.receive())
    until(lambda: Lost(0) in b.receive())
    move(3)
    connect(a, b)
    for sender, receiver in ((a, b), (b, a)):
        me = 0 if sender is a else 1
        assert sender.send(1 - me, ratios(me, 0))
        assert until(lambda receiver=receiver: messages(receiver))
    a.close()
    b.close()


def sent(transport: LinkTransport, neighbour: int) -> tuple[int, int]:
    traffic = transport.traffic[neighbour]
    return traffic.messages_sent, traffic.bytes_sent


def received(transport: LinkTransport, neighbour: int) -> tuple[int, int]:
    transport.receive()
    traffic = transport.traffic[neighbour]
    return traffic.messages_received, traffic.bytes_received


def test_what_cannot_be_sent_now_is_not_sent_later(context: zmq.Context[Any], endpoints: list[str]) -> None:
    a = LinkTransport(0, LINE, endpoints, LINKS, context, PLAIN)
    assert [a.send(1, ratios(0, 0, k)) for k in range(1, 40)] == [False] * 39
    assert a.receive() == []
    assert a.unreached == [1]
    assert (a.traffic[1].unsent, a.traffic[1].messages_sent) == (39, 0)
    b = LinkTransport(1, LINE, endpoints, LINKS, context, PLAIN)
    assert not b.send(0, ratios(1, 0)), "nobody has dialled yet"
    until(lambda: a.send(1, ratios(0, 0, 77)))
    assert [message.k for message in until(lambda: messages(b))] == [77]
    a.close()
    b.close()


def test_a_neighbour_that_comes_back_is_reached_again(context: zmq.Context[Any], endpoints: list[str]) -> None:
    b = LinkTransport(1, LINE, endpoints, LINKS, context, PLAIN)
    for k in (1, 2):
        a = LinkTransport(0, LINE, endpoints, LINKS, context, PLAIN)
        until(lambda a=a, k=k: a.send(1, ratios(0, 0, k)))
        assert [message.k for message in until(lambda: messages(b))] == [k]
        until(lambda k=k: b.send(0, ratios(1, 0, k)))
        assert [message.k for message in until(lambda a=a: messages(a))] == [k]
        a.close()
    b.close()


def test_each_end_notices_that_the_other_is_gone(context: zmq.Context[Any], endpoints: list[str]) -> None:
    b = LinkTransport(1, LINE, endpoints, LINKS, context, PLAIN)
    for _ in range(2):
        with zmq.Context() as others:
            a, c = (LinkTransport(agent, LINE, endpoints, LINKS, others, PLAIN) for agent in (0, 2))
            until(lambda a=a, c=c: [t.receive() for t in (a, b, c)] and not (a.unreached + b.unreached + c.unreached))
            assert {other: link.state for other, link in b.connections().items()} == {0: "up", 2: "up"}
            a.close()
            c.close()
        events: list[object] = []
        until(lambda events=events: events.extend(b.receive()) or len(events) >= 2)
        assert sorted(event.neighbour for event in events if isinstance(event, Lost)) == [0, 2]
        assert {other: link.state for other, link in b.connections().items()} == {0: "down", 2: "down"}
        assert b.unreached == [0, 2]
    b.close()


def test_probes_measure_the_round_trip(context: zmq.Context[Any], endpoints: list[str]) -> None:
    a, b = (LinkTransport(agent, LINE, endpoints, LINKS, context, PLAIN) for agent in (0, 1))
    assert a.connections()[1] == watch.Connection("connecting", None)
    until(lambda: (a.receive(), b.receive()) and a.connections()[1].round_trip)
    connection = a.connections()[1]
    assert connection.state == "up"
    assert connection.round_trip is not None
    assert 0 < connection.round_trip[0] <= connection.round_trip[1] < 10_000
    a.close()
    b.close()


def test_a_neighbour_that_does_not_answer_is_suspect(
    context: zmq.Context[Any], endpoints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_UNANSWERED", 0.3)
    a, b = (LinkTransport(agent, LINE, endpoints, LINKS, context, PLAIN) for agent in (0, 1))
    connect(a, b)
    until(lambda: a.receive() or a.connections()[1].state == "suspect")
    until(lambda: (a.receive(), b.receive()) and a.connections()[1].state == "up")
    a.close()
    b.close()


def test_strangers_and_garbage_are_refused_and_counted(
    context: zmq.Context[Any], endpoints: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    b = LinkTransport(1, LINE, endpoints, LINKS, context, PLAIN)
    stranger = context.socket(zmq.DEALER)
    stranger.connect(endpoints[1])
    bad = [
        [b"garbage"],
        [b""] * (MAX_FRAMES + 20),
        LINKS.encode(ratios(1, 0)),  # says it is the receiver
        LINKS.encode(ratios(2, 1)),  # the receiver dials agent 2, not the other way round
        LINKS.encode(ratios(0, 1)),  # a link that does not join the two
        LinkCodec("other", 3, 2, (3, 4), "float32").encode(ratios(0, 0)),
    ]
    with caplog.at_level(logging.WARNING):
        for frames in bad:
            stranger.send_multipart(frames)
        heard: list[LinkMessage | Lost] = []
        until(lambda: heard.extend(b.receive()) or b.refusals.total == len(bad))
    assert heard == []
    assert "refused number 1 (malformed) from the network: header is not msgpack" in caplog.messages
    assert sum("(wrong sender)" in line for line in caplog.messages) == 2, "the log grows slower than the count"
    stranger.send_multipart(LINKS.encode(ratios(0, 0)))
    assert len(until(lambda: messages(b))) == 1
    stranger.close(0)
    b.close()


def test_frames_that_are_too_large_end_the_connection(context: zmq.Context[Any], endpoints: list[str]) -> None:
    b = LinkTransport(1, LINE, endpoints, LINKS, context, PLAIN)
    stranger = context.socket(zmq.DEALER)
    stranger.connect(endpoints[1])
    stranger.send_multipart([bytes(LINKS.max_bytes + 1)])
    a = LinkTransport(0, LINE, endpoints, LINKS, context, PLAIN)
    until(lambda: a.send(1, ratios(0, 0)))
    assert len(until(lambda: messages(b))) == 1
    assert b.refusals.total == 0
    stranger.close(0)
    a.close()
    b.close()


def test_an_endpoint_that_is_taken_is_named(context: zmq.Context[Any]) -> None:
    with ServerChannel("tcp://127.0.0.1:*", LINES, context, PLAIN).socket as first:
        endpoint = first.getsockopt_string(zmq.LAST_ENDPOINT)
        with pytest.raises(ConfigError, match=f"cannot listen at {endpoint}: Address already in use"):
            ServerChannel(endpoint, LINES, context, PLAIN)
    context.destroy(0)


def observation(t: int) -> Observation:
    return Observation(
        1,
        1,
        t,
        AgentStep(
            observation=np.full((2, 3), t, np.float32),
            reward=np.zeros(2, np.float32),
            reward_scale=np.ones(1, np.float32),
            terminated=np.zeros(2, bool),
            truncated=np.zeros(2, bool),
            final_observation=None,
            joint_action=np.zeros((2, 2), np.float32),
            action_mask=None,
        ),
    )


def test_the_line_between_agents_and_server(context: zmq.Context[Any], endpoints: list[str]) -> None:
    agents = [AgentChannel(agent, endpoints[0], LINES, context, PLAIN) for agent in range(2)]
    assert not agents[0].send(HELLO), "nobody is there"
    server = ServerChannel(endpoints[0], LINES, context, PLAIN)
    say(agents[0], HELLO)
    [(address, hello)] = until(server.receive)
    assert hello == HELLO
    assert server.send(address, 0, observation(0))
    assert not server.send(b"elsewhere", 1, observation(0)), "nobody is there"
    [received] = until(agents[0].receive)
    assert isinstance(received, Observation)
    assert received.step.observation.shape == (2, 3)
    say(agents[0], Action(0, 1, 1, 0, np.ones((2, 1), np.float32)))
    [(again, action)] = until(server.receive)
    assert again == address
    assert isinstance(action, Action)
    assert action.action.tolist() == [[1.0], [1.0]]
    for agent in agents:
        agent.close()
    server.close()


def test_agents_and_server_notice_that_the_other_is_gone(context: zmq.Context[Any], endpoints: list[str]) -> None:
    agent = AgentChannel(0, endpoints[0], LINES, context, PLAIN)
    for _ in range(2):
        with zmq.Context() as servers:
            server = ServerChannel(endpoints[0], LINES, servers, PLAIN)
            assert until(agent.monitor.changes) == [True]
            agent.send(HELLO)
            [(address, _)] = until(server.receive)
            assert server.gone([address]) == []
            server.close()
        assert until(agent.monitor.changes) == [False]
    server = ServerChannel(endpoints[0], LINES, context, PLAIN)
    say(agent, HELLO)
    [(address, _)] = until(server.receive)
    agent.close()
    assert until(lambda: server.gone([address])) == [address]
    assert not server.send(address, 0, observation(0))
    server.close()


def test_the_last_word_of_a_server_that_ends_is_heard(endpoints: list[str], context: zmq.Context[Any]) -> None:
    with zmq.Context() as servers:
        server = ServerChannel(endpoints[0], LINES, servers, PLAIN)
        agent = AgentChannel(0, endpoints[0], LINES, context, PLAIN)
        say(agent, HELLO)
        [(address, _)] = until(server.receive)
        server.send(address, 0, Stop(True))
        server.close()
    assert until(agent.receive) == [Stop(True)]
    agent.close()


def test_the_last_word_is_heard_before_the_server_hangs_up(
    context: zmq.Context[Any], endpoints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for those that hear it, and hang up, and for those that do not, no longer than it may."""
    server = ServerChannel(endpoints[0], LINES, context, PLAIN)
    agent = AgentChannel(0, endpoints[0], LINES, context, PLAIN)
    say(agent, HELLO)
    [(address, _)] = until(server.receive)
    monkeypatch.setattr(channels, "_HANG_UP", 3600.0)
    ending = threading.Thread(target=server.say_last, args=(Stop(True), {0: address}), daemon=True)
    ending.start()
    assert until(agent.receive) == [Stop(True)]
    assert ending.is_alive(), "the agent is there"
    agent.close()
    ending.join(10.0)
    assert not ending.is_alive()
    deaf = AgentChannel(0, endpoints[0], LINES, context, PLAIN)
    say(deaf, HELLO)
    [(address, _)] = until(server.receive)
    monkeypatch.setattr(channels, "_HANG_UP", 0.1)
    server.say_last(Stop(True), {0: address})
    deaf.close()
    server.close()
