from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import zmq

from matrpo.config import ConfigError
from matrpo.consensus.message import LinkMessage
from matrpo.envs.shared import AgentStep
from matrpo.launch.lines import AgentLine, ServerLine
from matrpo.launch.transport import LinkTransport
from matrpo.launch.wire import MAX_FRAMES, Action, Bye, EnvironmentCodec, Hello, LinkCodec, Observation, Stop
from matrpo.spaces import Discrete, TaskSpec
from matrpo.topology import CommunicationGraph

T = TypeVar("T")

LINE = CommunicationGraph(3, ((0, 1), (1, 2)), "line")
SPEC = TaskSpec("made-up", ("a", "b"), (3, 3), (Discrete(5), Discrete(5)))
LINKS = LinkCodec("run", 3, 2, 4, "float32")
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


def ratios(sender: int, link: int, k: int = 1) -> LinkMessage:
    return LinkMessage("ratios", sender, 0, 1, link, k, u=np.full((3, 4), sender + k / 8, np.float32))


def test_neighbours_exchange_messages_both_ways(context: zmq.Context[Any], endpoints: list[str]) -> None:
    agents = [LinkTransport(agent, LINE, endpoints, LINKS, context) for agent in range(3)]
    until(lambda: all(agent.greet() for agent in agents))
    for sender, receiver, link in ((0, 1, 0), (1, 0, 0), (1, 2, 1), (2, 1, 1)):
        until(lambda receiver=receiver: agents[receiver].receive() or True)
        until(lambda sender=sender, receiver=receiver, link=link: agents[sender].send(receiver, ratios(sender, link)))
        [message] = until(agents[receiver].receive)
        assert (message.sender, message.link) == (sender, link)
        assert message.u is not None
        np.testing.assert_array_equal(message.u, ratios(sender, link).u)
    for agent in agents:
        agent.close()


def test_bytes_are_counted_where_they_are_sent(context: zmq.Context[Any], endpoints: list[str]) -> None:
    a, b = (LinkTransport(agent, LINE, endpoints, LINKS, context) for agent in (0, 1))
    until(a.greet)
    until(lambda: a.send(1, ratios(0, 0)))
    until(b.receive)
    expected = sum(map(len, [*LINKS.encode_greeting(0), *LINKS.encode(ratios(0, 0))]))
    assert (a.traffic.messages_sent, a.traffic.bytes_sent) == (2, expected)
    assert (b.traffic.messages_received, b.traffic.bytes_received) == (2, expected)
    until(lambda: b.send(0, ratios(1, 0)))
    until(a.receive)
    assert b.traffic.bytes_sent == a.traffic.bytes_received == sum(map(len, LINKS.encode(ratios(1, 0))))
    a.close()
    b.close()


def test_what_cannot_be_sent_now_is_not_sent_later(context: zmq.Context[Any], endpoints: list[str]) -> None:
    a = LinkTransport(0, LINE, endpoints, LINKS, context)
    assert [a.send(1, ratios(0, 0, k)) for k in range(1, 40)] == [False] * 39
    assert not a.greet()
    assert (a.traffic.unsent, a.traffic.messages_sent) == (39, 0)
    b = LinkTransport(1, LINE, endpoints, LINKS, context)
    assert not b.send(0, ratios(1, 0)), "nobody has dialled yet"
    until(lambda: a.send(1, ratios(0, 0, 77)))
    assert [message.k for message in until(b.receive)] == [77]
    a.close()
    b.close()


def test_a_neighbour_that_comes_back_is_reached_again(context: zmq.Context[Any], endpoints: list[str]) -> None:
    b = LinkTransport(1, LINE, endpoints, LINKS, context)
    for k in (1, 2):
        a = LinkTransport(0, LINE, endpoints, LINKS, context)
        until(lambda a=a, k=k: a.send(1, ratios(0, 0, k)))
        assert [message.k for message in until(b.receive)] == [k]
        until(lambda k=k: b.send(0, ratios(1, 0, k)))
        assert [message.k for message in until(a.receive)] == [k]
        a.close()
    b.close()


def test_strangers_and_garbage_are_refused_and_counted(
    context: zmq.Context[Any], endpoints: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    b = LinkTransport(1, LINE, endpoints, LINKS, context)
    stranger = context.socket(zmq.DEALER)
    stranger.connect(endpoints[1])
    bad = [
        [b"garbage"],
        [b""] * (MAX_FRAMES + 20),
        LINKS.encode(ratios(1, 0)),  # says it is the receiver
        LINKS.encode(ratios(2, 1)),  # the receiver dials agent 2, not the other way round
        LINKS.encode(ratios(0, 1)),  # a link that does not join the two
        LinkCodec("other", 3, 2, 4, "float32").encode(ratios(0, 0)),
    ]
    with caplog.at_level(logging.WARNING):
        for frames in bad:
            stranger.send_multipart(frames)
        received: list[LinkMessage] = []
        until(lambda: received.extend(b.receive()) or b.traffic.refused == len(bad))
    assert received == []
    assert "refused message number 1 from a neighbour: header is not msgpack" in caplog.messages
    assert len(caplog.messages) == 3, "the log grows with the logarithm of the count"
    stranger.send_multipart(LINKS.encode(ratios(0, 0)))
    assert len(until(b.receive)) == 1
    stranger.close(0)
    b.close()


def test_frames_that_are_too_large_end_the_connection(context: zmq.Context[Any], endpoints: list[str]) -> None:
    b = LinkTransport(1, LINE, endpoints, LINKS, context)
    stranger = context.socket(zmq.DEALER)
    stranger.connect(endpoints[1])
    stranger.send_multipart([bytes(LINKS.max_bytes + 1)])
    a = LinkTransport(0, LINE, endpoints, LINKS, context)
    until(lambda: a.send(1, ratios(0, 0)))
    assert len(until(b.receive)) == 1
    assert b.traffic.refused == 0
    stranger.close(0)
    a.close()
    b.close()


def test_an_endpoint_that_is_taken_is_named(context: zmq.Context[Any]) -> None:
    with ServerLine("tcp://127.0.0.1:*", LINES, context).socket as first:
        endpoint = first.getsockopt_string(zmq.LAST_ENDPOINT)
        with pytest.raises(ConfigError, match=f"cannot listen at {endpoint}: Address already in use"):
            ServerLine(endpoint, LINES, context)
    context.destroy(0)


def observation(t: int) -> Observation:
    return Observation(
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
    agents = [AgentLine(agent, endpoints[0], LINES, context) for agent in range(2)]
    assert agents[0].send(Hello(0)), "held until the server is there"
    server = ServerLine(endpoints[0], LINES, context)
    assert until(server.receive) == [Hello(0)]
    assert server.send(0, observation(0))
    assert not server.send(1, observation(0)), "agent 1 has not said where it is"
    [received] = until(agents[0].receive)
    assert isinstance(received, Observation)
    assert received.step.observation.shape == (2, 3)
    agents[0].send(Action(0, 1, 0, np.ones((2, 1), np.float32)))
    [action] = until(server.receive)
    assert isinstance(action, Action)
    assert action.action.tolist() == [[1.0], [1.0]]
    for agent in agents:
        agent.close()
    server.close()


def test_only_the_one_who_said_hello_speaks_for_an_agent(context: zmq.Context[Any], endpoints: list[str]) -> None:
    server = ServerLine(endpoints[0], LINES, context)
    agent, impostor = (AgentLine(number, endpoints[0], LINES, context) for number in (0, 1))
    agent.send(Hello(0))
    until(server.receive)
    impostor.send(Bye(0))
    impostor.send(Hello(1))
    assert until(server.receive) == [Hello(1)]
    for line in (agent, impostor, server):
        line.close()


def test_the_last_word_of_a_server_that_ends_is_heard(endpoints: list[str], context: zmq.Context[Any]) -> None:
    with zmq.Context() as servers:
        server = ServerLine(endpoints[0], LINES, servers)
        agent = AgentLine(0, endpoints[0], LINES, context)
        agent.send(Hello(0))
        until(server.receive)
        server.send(0, Stop(True))
        server.close()
    assert until(agent.receive) == [Stop(True)]
    agent.close()
