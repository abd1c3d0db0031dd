"""The lines between the agents and the environment server.

Only an agent's end may hold a few messages for a server that is not there yet: on a socket that never does
(IMMEDIATE), libzmq drops what has arrived, unread, with the connection, and so the server's last word.
"""

from __future__ import annotations

from typing import Any

import zmq

from matrpo.launch.sockets import GOODBYE_MS, Refusals, bind, make_socket, try_send, waiting
from matrpo.launch.wire import Action, Bye, EnvironmentCodec, Hello, Observation, Stop, WireError

_QUEUE = 4


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
        self._refusals = Refusals("the environment server")
        self.socket = make_socket(context, zmq.DEALER, endpoint, codec.max_bytes, queue=_QUEUE)
        self.socket.setsockopt(zmq.IMMEDIATE, 0)
        self.socket.connect(endpoint)

    def send(self, message: Hello | Action | Bye) -> bool:
        """Send to the server; False if it cannot be reached now."""
        return try_send(self.socket, self._codec.encode(message))

    def receive(self) -> list[Observation | Stop]:
        """All messages that have arrived; what cannot be decoded is dropped."""
        messages = []
        for frames in waiting(self.socket):
            try:
                messages.append(self._codec.decode_at_agent(frames, self._agent))
            except WireError as error:
                self._refusals.add(error)
        return messages

    def close(self) -> None:
        """Close the socket; what was sent has a second to leave."""
        self.socket.close(GOODBYE_MS)


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
        self._refusals = Refusals("an agent")
        self.socket = make_socket(context, zmq.ROUTER, endpoint, codec.max_bytes, queue=_QUEUE)
        bind(self.socket, endpoint)

    def send(self, agent: int, message: Observation | Stop) -> bool:
        """Send to an agent; False if it cannot be reached now."""
        if agent not in self._routes:
            return False
        if isinstance(message, Stop):
            frames = self._codec.encode(message)
        else:
            frames = self._codec.encode_observation(message, agent)
        return try_send(self.socket, [self._routes[agent], *frames])

    def receive(self) -> list[Hello | Action | Bye]:
        """All messages that have arrived. A hello says where its agent is; only from there its others count."""
        messages = []
        for route, *frames in waiting(self.socket):
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
        self.socket.close(GOODBYE_MS)
