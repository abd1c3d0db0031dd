"""Sockets: one agent's links to its neighbours, and the line between the agents and the environment server.

Every send returns at once. What cannot be delivered now is not queued for later but reported as unsent: whoever sent
it says it again when it is still true. Only an agent's line to the server may hold a few messages for a server that
is not there yet: on a socket that never does (IMMEDIATE), libzmq drops what has arrived, unread, with the connection,
and so the server's last word.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import zmq

from matrpo.config import ConfigError
from matrpo.consensus.message import LinkMessage
from matrpo.launch.wire import (
    MAX_FRAMES,
    Action,
    Bye,
    EnvironmentCodec,
    Frames,
    Greeting,
    Hello,
    LinkCodec,
    Observation,
    Stop,
    WireError,
)
from matrpo.recorder import Traffic
from matrpo.topology import CommunicationGraph

_LOG = logging.getLogger(__name__)
_LINK_QUEUE = 16
_LINE_QUEUE = 4
_GOODBYE_MS = 1000

Socket = zmq.Socket[bytes]


class LinkTransport:
    """The sockets between one agent and its neighbours.

    Of two neighbours the lower id dials. The end that is dialled learns where to answer from the messages that
    arrive, of which a greeting is the first.

    Args:
        agent: this agent's id.
        graph: the communication graph.
        endpoints: every agent's address.
        codec: packs and unpacks messages.
        context: of this process.

    Raises:
        ConfigError: nothing can listen at the agent's own endpoint.
    """

    def __init__(
        self,
        agent: int,
        graph: CommunicationGraph,
        endpoints: Sequence[str],
        codec: LinkCodec,
        context: zmq.Context[Any],
    ) -> None:
        self.traffic = Traffic()
        self._agent = agent
        self._graph = graph
        self._codec = codec
        self._refusals = _Refusals("a neighbour")
        self._routes: dict[int, bytes] = {}
        self._router: Socket | None = None
        self._dealers: dict[int, Socket] = {}
        neighbours = graph.neighbours(agent)
        if any(other < agent for other in neighbours):
            self._router = _socket(context, zmq.ROUTER, endpoints[agent], codec.max_bytes, queue=_LINK_QUEUE)
            _bind(self._router, endpoints[agent])
        for other in neighbours:
            if other > agent:
                dealer = _socket(context, zmq.DEALER, endpoints[other], codec.max_bytes, queue=_LINK_QUEUE)
                dealer.connect(endpoints[other])
                self._dealers[other] = dealer
        self._not_greeted = set(self._dealers)

    @property
    def sockets(self) -> list[Socket]:
        """What to poll for incoming messages."""
        return [*([self._router] if self._router else []), *self._dealers.values()]

    def greet(self) -> bool:
        """Tell the neighbours dialled so far where to answer; True when all of them have been told."""
        for other in sorted(self._not_greeted):
            frames = self._codec.encode_greeting(self._agent)
            if _try_send(self._dealers[other], frames):
                self._count(frames)
                self._not_greeted.discard(other)
        return not self._not_greeted

    def send(self, neighbour: int, message: LinkMessage) -> bool:
        """Send to a neighbour; False if it cannot be reached now. The message's array must not change afterwards."""
        frames = self._codec.encode(message)
        if neighbour in self._dealers:
            return self._transmit(self._dealers[neighbour], frames)
        if self._router and neighbour in self._routes:
            return self._transmit(self._router, frames, self._routes[neighbour])
        self.traffic.unsent += 1
        return False

    def receive(self) -> list[LinkMessage]:
        """All messages that have arrived; what cannot be decoded, or comes from the wrong end, is dropped."""
        messages = [
            self._accept(frames, other) for other, dealer in self._dealers.items() for frames in _waiting(dealer)
        ]
        if self._router:
            messages += [self._accept(frames, None, route) for route, *frames in _waiting(self._router)]
        return [message for message in messages if isinstance(message, LinkMessage)]

    def close(self) -> None:
        """Close the sockets; what was sent has a second to leave."""
        for socket in self.sockets:
            socket.close(_GOODBYE_MS)

    def _accept(self, frames: list[bytes], dialled: int | None, route: bytes = b"") -> LinkMessage | Greeting | None:
        """The message in these frames, from a neighbour that this agent dialled or else one that dialled it."""
        traffic = self.traffic
        try:
            message = self._codec.decode(frames)
            self._check_sender(message, dialled)
        except WireError as error:
            traffic.refused += 1
            self._refusals.add(error)
            return None
        if dialled is None:
            self._routes[message.sender] = route
        traffic.messages_received += 1
        traffic.bytes_received += sum(map(len, frames))
        return message

    def _check_sender(self, message: LinkMessage | Greeting, dialled: int | None) -> None:
        sender, me = message.sender, self._agent
        right = sender == dialled or (dialled is None and sender < me and sender in self._graph.neighbours(me))
        if isinstance(message, LinkMessage):
            right = right and set(self._graph.links[message.link]) == {sender, me}
        if not right:
            raise WireError(f"sender {sender} is not at the other end")

    def _transmit(self, socket: Socket, frames: Frames, route: bytes | None = None) -> bool:
        if not _try_send(socket, frames if route is None else [route, *frames]):
            self.traffic.unsent += 1
            return False
        self._count(frames)
        return True

    def _count(self, frames: Frames) -> None:
        self.traffic.messages_sent += 1
        self.traffic.bytes_sent += sum(map(len, frames))


class AgentLine:
    """An agent's end of the line to the environment server.

    Args:
        agent: this agent's id.
        endpoint: the server's address.
        codec: packs and unpacks messages.
        context: of this process.
    """

    def __init__(self, agent: int, endpoint: str, codec: EnvironmentCodec, context: zmq.Context[Any]) -> None:
        self._agent = agent
        self._codec = codec
        self._refusals = _Refusals("the environment server")
        self.socket = _socket(context, zmq.DEALER, endpoint, codec.max_bytes, queue=_LINE_QUEUE)
        self.socket.setsockopt(zmq.IMMEDIATE, 0)
        self.socket.connect(endpoint)

    def send(self, message: Hello | Action | Bye) -> bool:
        """Send to the server; False if it cannot be reached now."""
        return _try_send(self.socket, self._codec.encode(message))

    def receive(self) -> list[Observation | Stop]:
        """All messages that have arrived; what cannot be decoded is dropped."""
        messages = []
        for frames in _waiting(self.socket):
            try:
                messages.append(self._codec.decode_at_agent(frames, self._agent))
            except WireError as error:
                self._refusals.add(error)
        return messages

    def close(self) -> None:
        """Close the socket; what was sent has a second to leave."""
        self.socket.close(_GOODBYE_MS)


class ServerLine:
    """The environment server's end of the lines to all agents.

    Args:
        endpoint: where to bind.
        codec: packs and unpacks messages.
        context: of this process.

    Raises:
        ConfigError: nothing can listen at the endpoint.
    """

    def __init__(self, endpoint: str, codec: EnvironmentCodec, context: zmq.Context[Any]) -> None:
        self._codec = codec
        self._routes: dict[int, bytes] = {}
        self._refusals = _Refusals("an agent")
        self.socket = _socket(context, zmq.ROUTER, endpoint, codec.max_bytes, queue=_LINE_QUEUE)
        _bind(self.socket, endpoint)

    def send(self, agent: int, message: Observation | Stop) -> bool:
        """Send to an agent; False if it cannot be reached now."""
        if agent not in self._routes:
            return False
        if isinstance(message, Stop):
            frames = self._codec.encode(message)
        else:
            frames = self._codec.encode_observation(message, agent)
        return _try_send(self.socket, [self._routes[agent], *frames])

    def receive(self) -> list[Hello | Action | Bye]:
        """All messages that have arrived. A hello says where its agent is; only from there its others count."""
        messages = []
        for route, *frames in _waiting(self.socket):
            try:
                message = self._codec.decode_at_server(frames)
                if isinstance(message, Hello):
                    self._routes[message.sender] = route
                elif self._routes.get(message.sender) != route:
                    raise WireError(f"agent {message.sender} said hello from elsewhere, or not at all")
                messages.append(message)
            except WireError as error:
                self._refusals.add(error)
        return messages

    def close(self) -> None:
        """Close the socket; what was sent has a second to leave."""
        self.socket.close(_GOODBYE_MS)


class _Refusals:
    """Counts refused messages and names them in the log: the first, then ever fewer, so that nobody can flood it."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._count = 0

    def add(self, error: WireError) -> None:
        self._count += 1
        if self._count & (self._count - 1) == 0:
            _LOG.warning("refused message number %d from %s: %s", self._count, self._origin, error)


def _socket(context: zmq.Context[Any], kind: int, endpoint: str, max_bytes: int, queue: int) -> Socket:
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


def _bind(socket: Socket, endpoint: str) -> None:
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise ConfigError(f"cannot listen at {endpoint}: {zmq.strerror(error.errno or 0)}") from None


def _try_send(socket: Socket, frames: Frames) -> bool:
    try:
        socket.send_multipart(frames, zmq.DONTWAIT, copy=False)
    except zmq.Again:
        return False
    except zmq.ZMQError as error:
        if error.errno != zmq.EHOSTUNREACH:
            raise
        return False
    return True


def _waiting(socket: Socket) -> Iterator[list[bytes]]:
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
