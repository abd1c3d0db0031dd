"""In-memory message bus of a run in one process: it delivers every message, in the order they were sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from matrpo.consensus.message import LinkMessage
from matrpo.consensus.peer import Peer


def run_in_process(peers: Sequence[Peer]) -> None:
    """Deliver messages between peers that began an iteration at time 0, until all are done.

    Deterministic: first in, first out. The clock is virtual: it stands still while a message is in flight, then
    jumps to the next event, so no deadline passes and nothing is sent again before delivery.

    Raises:
        RuntimeError: a peer is not done and nothing can happen any more; `begin` was not called.
    """
    by_agent = {peer.agent: peer for peer in peers}
    in_flight: deque[tuple[int, LinkMessage]] = deque()
    now = 0.0
    for peer in peers:
        in_flight.extend(peer.take_outbox())
    while True:
        while in_flight:
            receiver, message = in_flight.popleft()
            if receiver in by_agent:
                by_agent[receiver].receive(message, now)
                in_flight.extend(by_agent[receiver].take_outbox())
        if all(peer.done for peer in peers):
            return
        events = [event for peer in peers if (event := peer.next_event()) is not None]
        if not events:
            raise RuntimeError("consensus stands still: a peer is not done and waits for nothing")
        now = max(now, min(events))
        for peer in peers:
            peer.tick(now)
            in_flight.extend(peer.take_outbox())
