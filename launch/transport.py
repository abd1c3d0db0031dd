"""The sockets between one agent and its neighbours.

Every send returns at once. What cannot be delivered now is not queued for later but reported as unsent: the link
protocol says it again when it is still true.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zmq

from matrpo.consensus.message import LinkMessage
from matrpo.launch.sockets import GOODBYE_MS, Refusals, Socket, bind, make_socket, try_send, waiting
from matrpo.launch.wire import Frames, Greeting, LinkCodec, WireError
from matrpo.recorder import Traffic
from matrpo.topology import CommunicationGraph

_QUEUE = 16


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
        self._refusals = Refusals("a neighbour")
        self._routes: dict[int, bytes] = {}
        self._router: Socket | None = None
        self._dealers: dict[int, Socket] = {}
        neighbours = graph.neighbours(agent)
        if any(other < agent for other in neighbours):
            self._router = make_socket(context, zmq.ROUTER, endpoints[agent], codec.max_bytes, queue=_QUEUE)
            bind(self._router, endpoints[agent])
        for other in neighbours:
            if other > agent:
                dealer = make_socket(context, zmq.DEALER, endpoints[other], codec.max_bytes, queue=_QUEUE)
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
            if try_send(self._dealers[other], frames):
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
            self._accept(frames, other) for other, dealer in self._dealers.items() for frames in waiting(dealer)
        ]
        if self._router:
            messages += [self._accept(frames, None, route) for route, *frames in waiting(self._router)]
        return [message for message in messages if isinstance(message, LinkMessage)]

    def close(self) -> None:
        """Close the sockets; what was sent has a second to leave."""
        for socket in self.sockets:
            socket.close(GOODBYE_MS)

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
        if not try_send(socket, frames if route is None else [route, *frames]):
            self.traffic.unsent += 1
            return False
        self._count(frames)
        return True

    def _count(self, frames: Frames) -> None:
        self.traffic.messages_sent += 1
        self.traffic.bytes_sent += sum(map(len, frames))
