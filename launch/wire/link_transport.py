"""The sockets between one agent and its neighbours.

Every send returns at once. What cannot be delivered now is not queued for later but reported as unsent: the link
protocol says it again when it is still true.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import zmq

from matrpo.consensus.message import Frames, LinkMessage
from matrpo.faults.gate import FaultGate
from matrpo.launch.cluster.keyring import Keyring, Security
from matrpo.launch.wire.authenticator import Authenticator
from matrpo.launch.wire.frames import WireError
from matrpo.launch.wire.link_codec import LinkCodec, Probe
from matrpo.launch.wire.refusals import RateLimits, Refusals
from matrpo.launch.wire.sockets import (
    Received,
    Socket,
    is_gone,
    listen,
    make_socket,
    shut,
    try_send,
    waiting,
)
from matrpo.launch.wire.watch import PROBE_EVERY, Connection, DialMonitor, NeighbourWatch, Timer
from matrpo.topology import CommunicationGraph

_QUEUE = 16


@dataclass(frozen=True)
class Lost:
    """Event: the connection to a neighbour is lost."""

    neighbour: int


@dataclass
class Traffic:
    """Counts of messages and bytes over one link since the agent was started.

    Attributes:
        unsent: messages that met no connection, or a full queue.
        refused: messages that were not decodable, or not the neighbour's to send, by reason.
    """

    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0
    unsent: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class LinkTransport:
    """The sockets between one agent and its neighbours.

    Of two neighbours the lower id dials. The end that is dialled learns where to answer from the messages that
    arrive, of which a probe is the first. An end that dialled hears of a lost connection from libzmq; the end that was
    dialled finds out when its next probe has nowhere to go.

    Args:
        agent: this agent's id.
        graph: the communication graph.
        endpoints: every agent's address.
        codec: packs and unpacks messages.
        context: of this process.
        security: how to talk over TCP; see `make_socket`.
        gate: the faults of this agent's messages, if any.

    Attributes:
        refusals: what was turned away, by reason.
        traffic: what went through each link, by neighbour.

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
        security: Security | None = None,
        gate: FaultGate | None = None,
    ) -> None:
        neighbours = graph.neighbours(agent)
        self.traffic = {other: Traffic() for other in neighbours}
        self.refusals = Refusals("the network")
        self._agent = agent
        self._graph = graph
        self._codec = codec
        self._limits = RateLimits()
        self._gate = gate
        self._watches = {other: NeighbourWatch() for other in neighbours}
        self._timer = Timer(PROBE_EVERY)
        self._routes: dict[int, bytes] = {}
        self._former_routes: dict[int, bytes] = {}
        self._router: Socket | None = None
        self._authenticator: Authenticator | None = None
        self._dealers: dict[int, Socket] = {}
        self._monitors: dict[int, DialMonitor] = {}
        self._events: list[LinkMessage | Lost] = []
        self._keys = security.agents if isinstance(security, Keyring) else None
        size = codec.max_bytes
        if dialling := [other for other in neighbours if other < agent]:
            admitted = {self._keys[other]: f"agent {other}" for other in dialling} if self._keys else {}
            self._router, self._authenticator = listen(
                context, endpoints[agent], size, _QUEUE, security, admitted, self.refusals
            )
        for other in neighbours:
            if other > agent:
                key = self._keys[other] if self._keys else None
                dealer = make_socket(context, zmq.DEALER, endpoints[other], size, _QUEUE, security, key)
                self._monitors[other] = DialMonitor(dealer, endpoints[other], f"agent {other}")
                self._dealers[other] = dealer

    @property
    def sockets(self) -> list[Socket]:
        """What to poll for incoming messages and changes."""
        monitors = [monitor.socket for monitor in self._monitors.values()]
        return [*([self._router] if self._router else []), *self._dealers.values(), *monitors]

    @property
    def probe_at(self) -> float:
        """The time of the next probes, by the monotonic clock: call `receive` then at the latest."""
        return min(self._timer.next_at, self._gate.next_at) if self._gate else self._timer.next_at

    @property
    def unreached(self) -> list[int]:
        """The neighbours that there is no connection to."""
        return [other for other, watch in self._watches.items() if watch.state(0.0) in ("connecting", "down")]

    def connections(self) -> dict[int, Connection]:
        """The state of each link's connection, by neighbour, with the round-trip times since the last call."""
        now = time.monotonic()
        return {other: Connection(watch.state(now), watch.take_round_trips()) for other, watch in self._watches.items()}

    def send(self, neighbour: int, message: LinkMessage) -> bool:
        """Send to a neighbour; False if it cannot be reached now. The message's array must not change afterwards."""
        return self._transmit(neighbour, self._codec.encode(message))

    def receive(self) -> list[LinkMessage | Lost]:
        """New messages and lost connections, in order. A malformed message, or one from the wrong end, is dropped."""
        # In this order: what a connection brought before it was lost must not look like a sign of life after that.
        changes = {other: monitor.changes() for other, monitor in self._monitors.items()}
        for other, dealer in self._dealers.items():
            for received in waiting(dealer):
                self._accept(received, other)
        if self._router:
            for received in waiting(self._router):
                self._accept(received, None)
        for other, news in changes.items():
            if False in news:
                self._lose(other)
            if True in news and self._monitors[other].connected:
                self._probe(other)
        if self._gate:
            self._act_out(self._gate)
        if self._timer.due():
            for other in self._watches:
                self._probe(other)
        events, self._events = self._events, []
        return events

    def _act_out(self, gate: FaultGate) -> None:
        """Apply faults: send delayed messages that are due, and report neighbours that are cut off as lost."""
        now = time.monotonic()
        for other, frames in gate.due(now):
            self._put(other, frames)
        for other in gate.cut_off(now):  # The connection itself lasts: its route will serve again.
            self._report_lost(other)

    def close(self) -> None:
        """Close the sockets."""
        if self._router:
            shut(self._router, self._authenticator)
        for other, dealer in self._dealers.items():
            self._monitors[other].close()
            dealer.close()

    def _accept(self, received: Received, dialled: int | None) -> None:
        """Handle a received message, from a neighbour that this agent dialled or else one that dialled it."""
        route, frames = (b"", received.frames) if dialled is not None else (received.frames[0], received.frames[1:])
        try:
            self._limits.check(received.user if dialled is None else str(dialled))
            message = self._codec.decode(frames)
            self._check_sender(message, dialled, received.user)
        except WireError as error:
            self._refuse(error, self._neighbour_at(route) if dialled is None else dialled)
            return
        sender = message.sender
        if dialled is None and route not in (self._routes.get(sender), self._former_routes.get(sender)):
            self._lose(sender)
            self._routes[sender] = route
        self._watches[sender].hear()
        self.traffic[sender].messages_received += 1
        self.traffic[sender].bytes_received += sum(map(len, frames))
        if isinstance(message, LinkMessage):
            self._events.append(message)
        elif message.reply:
            self._watches[sender].answer(message.stamp, time.monotonic())
        else:
            self._transmit(sender, self._codec.encode_probe(Probe(self._agent, message.stamp, reply=True)))

    def _neighbour_at(self, route: bytes) -> int | None:
        return next((other for other, known in self._routes.items() if known == route), None)

    def _refuse(self, error: WireError, neighbour: int | None) -> None:
        if neighbour is not None:
            self.traffic[neighbour].refused[error.reason] += 1
        self.refusals.add(error)

    def _check_sender(self, message: LinkMessage | Probe, dialled: int | None, user: str) -> None:
        """Check that a message is from the other end; with CURVE, the key that it came with says who that is."""
        sender, me = message.sender, self._agent
        if dialled is None and self._keys and self._keys[sender] != user:
            raise WireError(f"sender {sender} came with the key of another", "wrong sender")
        right = sender == dialled or (dialled is None and sender < me and sender in self._graph.neighbours(me))
        if isinstance(message, LinkMessage):
            right = right and set(self._graph.links[message.link]) == {sender, me}
        if not right:
            raise WireError(f"sender {sender} is not at the other end", "wrong sender")

    def _probe(self, neighbour: int) -> None:
        """Send a probe to a neighbour, if it is connected."""
        if neighbour not in self._routes and not (neighbour in self._monitors and self._monitors[neighbour].connected):
            return
        stamp = self._watches[neighbour].ask(time.monotonic())
        for frames in self._passing(neighbour, self._codec.encode_probe(Probe(self._agent, stamp, reply=False))):
            if self._router is None or neighbour in self._dealers:
                self._put(neighbour, frames)
            elif is_gone(self._router, [self._routes[neighbour], *frames]):
                self._lose(neighbour)
                return
            else:
                self._count(neighbour, frames)

    def _lose(self, neighbour: int) -> None:
        if neighbour in self._routes:
            # The last messages that came that way may be read after the first ones of another connection.
            self._former_routes[neighbour] = self._routes.pop(neighbour)
        self._report_lost(neighbour)

    def _report_lost(self, neighbour: int) -> None:
        if self._watches[neighbour].lose():
            self._events.append(Lost(neighbour))

    def _transmit(self, neighbour: int, frames: Frames) -> bool:
        sent = [self._put(neighbour, passing) for passing in self._passing(neighbour, frames)]
        return all(sent)

    def _passing(self, neighbour: int, frames: Frames) -> list[Frames]:
        """The messages to send now in place of one, after fault injection: itself if no fault acts on it."""
        return self._gate.take(neighbour, frames, time.monotonic()) if self._gate else [frames]

    def _put(self, neighbour: int, frames: Frames) -> bool:
        sent = False
        if neighbour in self._dealers:
            sent = try_send(self._dealers[neighbour], frames)
        elif self._router and neighbour in self._routes:
            sent = try_send(self._router, [self._routes[neighbour], *frames])
        if sent:
            self._count(neighbour, frames)
        else:
            self.traffic[neighbour].unsent += 1
        return sent

    def _count(self, neighbour: int, frames: Frames) -> None:
        self.traffic[neighbour].messages_sent += 1
        self.traffic[neighbour].bytes_sent += sum(map(len, frames))
