"""Liveness of connections: a monitor of the socket that dials, and the state of the connection to each neighbour."""

from __future__ import annotations

import logging
import statistics
import struct
import time
from dataclasses import dataclass
from typing import Any, Literal

import zmq

from matrpo.launch.wire.sockets import Socket

PROBE_EVERY = 0.25
"""Seconds between two probes of a connection, by which the end that was dialled detects its loss."""

_REDIAL_AFTER = 2.0
"""Seconds after a failed handshake until the next attempt."""

_UNANSWERED = 3.0
"""Seconds without an answer after which a connected neighbour is suspect: its application is busy, or hangs."""

_FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH

_LOG = logging.getLogger(__name__)

LinkState = Literal["connecting", "up", "suspect", "down"]


@dataclass(frozen=True)
class Connection:
    """The state and round-trip times of a link's connection.

    Attributes:
        state: `up`; `connecting`: never yet; `suspect`: there, but the neighbour does not answer; `down`: lost.
        round_trip: smallest and median round-trip time in milliseconds in the last iteration, if any was measured.
    """

    state: LinkState
    round_trip: tuple[float, float] | None

    def metrics(self) -> dict[str, Any]:
        """The state and round-trip times as entries of an agent's metrics."""
        smallest, median = self.round_trip or (None, None)
        return {"state": self.state, "rtt_ms_min": smallest, "rtt_ms_median": median}


class DialMonitor:
    """Monitor of the one connection of a socket that dials.

    libzmq's heartbeats end it when the other side dies, stops or is cut off. It gives up for good on a server that
    refuses this process, or is none: whoever took a port for a moment could silence a link for ever. So such a server
    is dialled again after a while.

    Args:
        socket: not connected yet; it is connected here.
        endpoint: whom to dial.
        whom: the same in words.

    Attributes:
        socket: what to poll for changes.
        connected: whether there is a connection now, as of the last `changes`.
    """

    def __init__(self, socket: Socket, endpoint: str, whom: str) -> None:
        self.connected = False
        self._dialling = socket
        self._endpoint = endpoint
        self._redial_at: float | None = None
        self._whom = whom
        self._failures = 0
        self.socket: Socket = socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | _FAILED
        )
        socket.connect(endpoint)

    def changes(self) -> list[bool]:
        """Whether the connection has come (True) or gone (False) since the last call, in order."""
        changes: list[bool] = []
        while True:
            try:
                message = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                self._redial()
                return changes
            event, value = struct.unpack("=Hi", message[0])
            if event & _FAILED:
                self._note_failure(value)
                continue
            came = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            if came:
                self._redial_at = None
            if came != self.connected:
                self.connected = came
                changes.append(came)

    def close(self) -> None:
        """Stop watching; call it before the socket is closed."""
        self._dialling.disable_monitor()
        self.socket.close(0)

    def _redial(self) -> None:
        if self._redial_at is not None and time.monotonic() >= self._redial_at:
            self._redial_at = None
            self._dialling.disconnect(self._endpoint)
            self._dialling.connect(self._endpoint)

    def _note_failure(self, value: int) -> None:
        self._redial_at = time.monotonic() + _REDIAL_AFTER
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:
            _LOG.warning("handshake number %d with %s failed (libzmq's code %d)", self._failures, self._whom, value)


class NeighbourWatch:
    """State and round-trip times of the connection to one neighbour. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._state: LinkState = "connecting"
        self._asked_at: float | None = None
        self._stamp = -1
        self._round_trips: list[float] = []
        self._summary: tuple[float, float] | None = None

    def state(self, now: float) -> LinkState:
        """The connection's state; `suspect` is a neighbour that is connected and has not answered for a while."""
        if self._state == "up" and self._asked_at is not None and now - self._asked_at > _UNANSWERED:
            return "suspect"
        return self._state

    def ask(self, now: float) -> int:
        """Note that a probe is sent; returns its timestamp."""
        if self._asked_at is None:
            self._asked_at = now
        self._stamp = round(now * 1e6)
        return self._stamp

    def hear(self) -> None:
        """Note that a valid message has come from the neighbour."""
        self._state = "up"
        self._asked_at = None

    def answer(self, stamp: int, now: float) -> None:
        """Note that a probe has come back, and measure its round trip; only the last probe counts."""
        if stamp == self._stamp:
            self._round_trips.append(max(0.0, 1e3 * now - 1e-3 * stamp))
            self._stamp = -1

    def lose(self) -> bool:
        """Note that the connection is lost; whether it was up until now."""
        news = self._state == "up"
        if news:
            self._state = "down"
        self._asked_at = None
        return news

    def take_round_trips(self) -> tuple[float, float] | None:
        """The smallest and the median round-trip time in milliseconds since the last call, or as they were then."""
        trips, self._round_trips = self._round_trips, []
        if trips:
            self._summary = min(trips), statistics.median(trips)
        return self._summary


class Timer:
    """A periodic timer, to be polled.

    Args:
        seconds: between two times.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.next_at = 0.0

    def due(self) -> bool:
        """Whether the period is over; if so, the next one begins now."""
        now = time.monotonic()
        if now < self.next_at:
            return False
        self.next_at = now + self._seconds
        return True
