"""An agent's channels to all environment servers: the sockets under its side of the lock step."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import zmq

from matrpo.decentralized.lock_step.client import Client
from matrpo.launch.cluster.keyring import Security
from matrpo.launch.processes.process import StopRequested
from matrpo.launch.wire.channels import AgentChannel
from matrpo.launch.wire.environment_codec import EnvironmentCodec


class RunOver(Exception):  # noqa: N818
    """Raised when every environment server has reported that all agents are done."""


class OutdatedError(Exception):
    """Raised when an environment server knows of a later incarnation of this agent.

    Args:
        incarnation: that one.
    """

    def __init__(self, incarnation: int) -> None:
        super().__init__(f"an environment server knows of start {incarnation} of this agent, which is later than this")
        self.incarnation = incarnation


class EnvironmentChannels:
    """An agent's ends of its channels to all environment servers.

    Args:
        client: its side of the lock step.
        agent: its id.
        endpoints: the servers' addresses, in the order of their environments.
        codec: packs and unpacks messages.
        context: of this process.
        security: how to talk over TCP.
    """

    def __init__(
        self,
        client: Client,
        agent: int,
        endpoints: Iterable[str],
        codec: EnvironmentCodec,
        context: zmq.Context[Any],
        security: Security | None,
    ) -> None:
        self._client = client
        self._channels = [AgentChannel(agent, endpoint, codec, context, security) for endpoint in endpoints]

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """The sockets to poll: those of the channels and of their connection monitors."""
        return [socket for channel in self._channels for socket in (channel.socket, channel.monitor.socket)]

    @property
    def absent(self) -> list[int]:
        """The servers that cannot be reached now."""
        return [server for server, channel in enumerate(self._channels) if not channel.monitor.connected]

    def exchange(self) -> list[int]:
        """Handle all messages that have arrived, and send what is due; returns the servers that have disconnected.

        Raises:
            StopRequested: a server says that the run ends early.
            RunOver: all servers say that all agents are done.
            OutdatedError: a server knows of a later incarnation of this agent.
        """
        for server, channel in enumerate(self._channels):
            for message in channel.receive():
                self._client.receive(server, message)
        lost = self._look()  # last: a hello says what has been heard
        if self._client.stopped:
            raise StopRequested
        if self._client.over:
            raise RunOver
        if self._client.outdated is not None:
            raise OutdatedError(self._client.outdated)
        self._client.tick(time.monotonic())
        self.send()
        return lost

    def send(self) -> None:
        """Send what the agent's side of the lock step has to say."""
        for server, message in self._client.take_outbox():
            channel = self._channels[server]
            if not channel.send(message):
                self._client.not_sent(server, message, channel.monitor.connected, time.monotonic())

    def _look(self) -> list[int]:
        """Say hello to each server that has connected since the last call; returns those that have disconnected."""
        lost = []
        for server, channel in enumerate(self._channels):
            for connected in channel.monitor.changes():
                if connected:
                    self._client.hello(server)
                else:
                    lost.append(server)
        return lost

    def close(self) -> None:
        """Close all sockets."""
        for channel in self._channels:
            channel.close()
