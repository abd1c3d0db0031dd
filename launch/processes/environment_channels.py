"""An agent's channels to all environment servers: each action is sent again until it is answered."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import zmq

from matrpo.decentralized.lock_step.messages import Action, Bye, Hello, Observation, Stop
from matrpo.decentralized.lock_step.starts import Starts
from matrpo.launch.cluster.keyring import Security
from matrpo.launch.processes.process import StopRequested
from matrpo.launch.wire.channels import AgentChannel
from matrpo.launch.wire.environment_codec import EnvironmentCodec

REPEAT = 5.0
"""Retransmission timeout of an unanswered message to an environment server, in seconds."""

_RETRY = 0.05
"""Seconds until a failed send is retried."""


class RunOver(Exception):  # noqa: N818
    """Raised when every environment server has reported that all agents are done."""


class _Question:
    """An action that is sent again until its server answers with the next observation.

    Attributes:
        action: the action.
        said: whether it was sent.
        say_at: when it is due to be sent, again or at all.
    """

    def __init__(self, action: Action) -> None:
        self.action = action
        self.said = False
        self.say_at = 0.0


class EnvironmentChannels:
    """An agent's ends of its channels to all environment servers.

    Args:
        agent: its id.
        incarnation: how often it was started.
        endpoints: the servers' addresses, in the order of their environments.
        codec: packs and unpacks messages.
        context: of this process.
        security: how to talk over TCP.

    Attributes:
        wanted: the earliest iteration that the agent can act in.
        answered: the observations that answered actions and were not taken yet, by server.
    """

    def __init__(
        self,
        agent: int,
        incarnation: int,
        endpoints: Iterable[str],
        codec: EnvironmentCodec,
        context: zmq.Context[Any],
        security: Security | None,
    ) -> None:
        self.wanted = 0
        self.answered: dict[int, Observation] = {}
        self._agent = agent
        self._incarnation = incarnation
        self._channels = [AgentChannel(agent, endpoint, codec, context, security) for endpoint in endpoints]
        self._starts = Starts(len(self._channels))
        self._said = (0, 0)
        self._questions: dict[int, _Question] = {}
        self._finished: set[int] = set()

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """The sockets to poll: those of the channels and of their connection monitors."""
        return [socket for channel in self._channels for socket in (channel.socket, channel.monitor.socket)]

    @property
    def absent(self) -> list[int]:
        """The servers that cannot be reached now."""
        return [server for server, channel in enumerate(self._channels) if not channel.monitor.connected]

    @property
    def due_at(self) -> float:
        """The time of the next retransmission, by the monotonic clock."""
        return min((question.say_at for question in self._questions.values()), default=float("inf"))

    def agreed(self) -> list[Observation]:
        """The start of an iteration from each server, as soon as all have begun the same attempt at it; none before."""
        return self._starts.agreed(self.wanted)

    def ask_to_begin(self, again: bool) -> None:
        """Say hello to the servers that are behind, once for each later start that the agent hears of, or `again`."""
        target = self._starts.target(self.wanted)
        if again or target > self._said:
            for server in self._starts.behind(self.wanted):
                self.hello(server)
        self._said = target

    def act(self, server: int, action: Action) -> None:
        """Send an action until it is answered."""
        self._questions[server] = _Question(action)
        self.repeat()

    def repeat(self) -> None:
        """Send the actions that are due, for the first time or again."""
        now = time.monotonic()
        for server, question in self._questions.items():
            if now < question.say_at:
                continue
            channel = self._channels[server]
            if question.said:
                self.hello(server)
            question.said = channel.send(question.action)
            question.say_at = now + (REPEAT if question.said or not channel.monitor.connected else _RETRY)

    def take_answers(self) -> dict[int, Observation]:
        """The observations that answered actions since the last call, by server."""
        answers, self.answered = self.answered, {}
        return answers

    def broken(self) -> bool:
        """Whether the iteration of the unanswered actions cannot be finished; if so, they are dropped."""
        actions = [question.action for question in self._questions.values()]
        broken = any(self._starts.outdate(action.iteration, action.attempt) for action in actions)
        if broken:
            self._questions.clear()
        return broken

    def hello(self, server: int) -> None:
        """Say hello to a server."""
        self._channels[server].send(Hello(self._agent, self._incarnation, *self._starts.target(self.wanted)))

    def say_goodbye(self) -> None:
        """Tell all servers that the agent has finished."""
        for channel in self._channels:
            channel.send(Bye(self._agent))

    def look(self) -> list[int]:
        """Say hello to each server that has connected since the last call; returns those that have disconnected."""
        lost = []
        for server, channel in enumerate(self._channels):
            for connected in channel.monitor.changes():
                if connected:
                    self.hello(server)
                else:
                    lost.append(server)
        return lost

    def receive(self) -> None:
        """Handle all messages that have arrived.

        Raises:
            StopRequested: a server says that the run ends early.
            RunOver: all servers say that all agents are done.
        """
        for server, channel in enumerate(self._channels):
            for message in channel.receive():
                if isinstance(message, Stop):
                    self._end(server, message)
                    continue
                if message.t == 0:
                    self._starts.hear(server, message)
                if self._answers(server, message):
                    self.answered[server] = message

    def _answers(self, server: int, heard: Observation) -> bool:
        question = self._questions.get(server)
        if question is None:
            return False
        action = question.action
        if (heard.attempt, heard.iteration) != (action.attempt, action.iteration):
            return False
        if heard.t == action.t:  # it was asked for by a hello: the server has not got the action
            self._channels[server].send(action)
        if heard.t != action.t + 1:
            return False
        del self._questions[server]
        return True

    def _end(self, server: int, word: Stop) -> None:
        if not word.finished:
            raise StopRequested
        self._finished.add(server)
        if len(self._finished) == len(self._channels):
            raise RunOver

    def close(self) -> None:
        """Close all sockets; what was sent has a second to leave."""
        for channel in self._channels:
            channel.close()
