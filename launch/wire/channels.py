"""The channels between the agents and the environment server.

Only an agent's end may queue a few messages for a server that is not connected yet: on a socket that never does
(IMMEDIATE), libzmq drops what has arrived, unread, with the connection, and so the server's last word.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import zmq

from matrpo.decentralized.lock_step.messages import Action, Bye, Hello, Observation, Outdated, Ping, Stop
from matrpo.decentralized.lock_step.rules import Address
from matrpo.launch.cluster.keyring import Keyring, Security
from matrpo.launch.wire.environment_codec import EnvironmentCodec
from matrpo.launch.wire.frames import WireError
from matrpo.launch.wire.refusals import RateLimits, Refusals
from matrpo.launch.wire.sockets import is_gone, listen, make_socket, shut, try_send, waiting
from matrpo.launch.wire.watch import PROBE_EVERY, DialMonitor, Timer

_QUEUE = 4
_HANG_UP = 1.0
"""Seconds in which an agent has heard the last word, whatever it does meanwhile."""

_LOOK_AGAIN_MS = 20
"""Milliseconds between two looks whether agents have hung up."""


class AgentChannel:
    """An agent's end of the channel to the environment server.

    Args:
        agent: this agent's id.
        endpoint: the server's address.
        codec: packs and unpacks messages.
        context: of this process.
        security: how to talk over TCP; see `make_socket`.

    Attributes:
        refusals: what was turned away, by reason.
        monitor: tells whether the server is there.
    """

    def __init__(
        self,
        agent: int,
        endpoint: str,
        codec: EnvironmentCodec,
        context: zmq.Context[Any],
        security: Security | None = None,
    ) -> None:
        self._agent = agent
        self._codec = codec
        self.refusals = Refusals("the environment server")
        key = security.environment if isinstance(security, Keyring) else None
        self.socket = make_socket(context, zmq.DEALER, endpoint, codec.max_bytes, _QUEUE, security, key)
        self.socket.setsockopt(zmq.IMMEDIATE, 0)
        self.monitor = DialMonitor(self.socket, endpoint, "the environment server")

    def send(self, message: Hello | Action | Bye) -> bool:
        """Send to the server; False if it cannot be reached now."""
        return self.monitor.connected and try_send(self.socket, self._codec.encode(message))

    def receive(self) -> list[Observation | Outdated | Stop]:
        """All messages that have arrived; what cannot be decoded is dropped."""
        messages = []
        for frames, _ in waiting(self.socket):
            try:
                message = self._codec.decode_at_agent(frames, self._agent)
            except WireError as error:
                self.refusals.add(error)
                continue
            if not isinstance(message, Ping):
                messages.append(message)
        return messages

    def close(self) -> None:
        """Close the socket."""
        self.monitor.close()
        self.socket.close()


class ServerChannel:
    """The environment server's end of the channels to all agents.

    Args:
        endpoint: where to bind.
        codec: packs and unpacks messages.
        context: of this process.
        security: how to talk over TCP; see `make_socket`.

    Attributes:
        refusals: what was turned away, by reason.

    Raises:
        ConfigError: nothing can listen at the endpoint.
    """

    def __init__(
        self, endpoint: str, codec: EnvironmentCodec, context: zmq.Context[Any], security: Security | None = None
    ) -> None:
        self._codec = codec
        self._limits = RateLimits()
        self._timer = Timer(PROBE_EVERY)
        self.refusals = Refusals("the network")
        self._keys = security.agents if isinstance(security, Keyring) else ()
        self._admitted = {key: f"agent {agent}" for agent, key in enumerate(self._keys)}
        self.socket, self._authenticator = listen(
            context, endpoint, codec.max_bytes, _QUEUE, security, self._admitted, self.refusals
        )

    def send(self, address: Address, agent: int, message: Observation | Outdated | Stop) -> bool:
        """Send to an agent at its address; False if it cannot be reached now."""
        if isinstance(message, Observation):
            frames = self._codec.encode_observation(message, agent)
        else:
            frames = self._codec.encode(message)
        return try_send(self.socket, [address, *frames])

    def say_last(self, word: Stop, addresses: Mapping[int, Address]) -> None:
        """Send all agents the last word, and wait until they have hung up, for `_HANG_UP` at most."""
        try_send(self.socket, [b""])  # ends a message that a stop has cut between two frames; without one, nothing
        for agent, address in addresses.items():
            self.send(address, agent, word)
        here, until = set(addresses.values()), time.monotonic() + _HANG_UP
        while here and time.monotonic() < until:
            self.socket.poll(_LOOK_AGAIN_MS)
            for _ in waiting(self.socket):
                pass
            here = {address for address in here if not self._is_gone(address)}

    def receive(self) -> list[tuple[Address, Hello | Action | Bye]]:
        """All messages that have arrived, and where from; what cannot be decoded is dropped."""
        messages = []
        for (address, *frames), user in waiting(self.socket):
            try:
                self._limits.check(user)
                message = self._codec.decode_at_server(frames)
                if self._keys and self._keys[message.sender] != user:
                    raise WireError(f"sender {message.sender} came with the key of another", "wrong sender")
                messages.append((address, message))
            except WireError as error:
                self.refusals.add(error, self._admitted.get(user))
        return messages

    def gone(self, addresses: Iterable[Address]) -> list[Address]:
        """The addresses whose connection is gone; it has to be called every `PROBE_EVERY`, and looks no more often."""
        if not self._timer.due():
            return []
        return [address for address in addresses if self._is_gone(address)]

    def _is_gone(self, address: Address) -> bool:
        return is_gone(self.socket, [address, *self._codec.encode(Ping())])

    def close(self) -> None:
        """Close the socket."""
        shut(self.socket, self._authenticator)
