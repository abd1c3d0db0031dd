"""Exact traffic of the consensus over a graph's links in an iteration, by the schedule and the wire's codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgpack  # type: ignore[import-untyped]
import numpy as np

from matrpo.consensus.message import LinkMessage
from matrpo.launch.wire.link_codec import LinkCodec, Probe
from matrpo.launch.wire.watch import PROBE_EVERY
from matrpo.settings.config import Config
from matrpo.topology import CommunicationGraph

RUN_ID = "0" * 16
"""A placeholder run id, as long as a real one."""

_PROBES_PER_SECOND = 2 / PROBE_EVERY
"""Probe messages a second that each end of a link sends: its own probes, and its replies to the other's."""


@dataclass(frozen=True)
class LinkTraffic:
    """Messages and bytes that the ends of the links send in an iteration without message loss.

    Both ends of a link send as many messages. Questions and signs of life of an agent that waits, and probes, go by the
    clock: they are not counted here, but for `probe_bytes_per_second`.

    Attributes:
        activations: of each link.
        bytes: of each link, both directions together.
        agent_messages: sent by each agent.
        agent_bytes: sent by each agent.
        largest_message: bytes of one message.
        payload: bytes of that which are log ratios.
        probe_bytes_per_second: of each end of a link.
    """

    activations: tuple[int, ...]
    bytes: tuple[int, ...]
    agent_messages: tuple[int, ...]
    agent_bytes: tuple[int, ...]
    largest_message: int
    payload: int
    probe_bytes_per_second: float


def link_traffic(graph: CommunicationGraph, sequence: Sequence[int], config: Config) -> LinkTraffic:
    """Count what a sequence of activations sends in an early iteration.

    Args:
        graph: the communication graph.
        sequence: the link of each activation, in order.
        config: whose wire type and shared samples count.
    """
    shape = config.exchange_shape(graph.num_agents)
    codec = LinkCodec(RUN_ID, graph.num_agents, len(graph.links), shape, config.wire_dtype)
    ratios = LinkMessage("ratios", 0, 1, 1, 0, 0, u=np.zeros(shape, config.wire_dtype))
    shortest = sum(map(len, codec.encode(ratios)))
    states = [(0, 0)] * len(graph.links)
    activations, sent = [0] * len(graph.links), [0] * len(graph.links)
    messages, agent_bytes = [0] * graph.num_agents, [0] * graph.num_agents
    largest = 0
    for k, link in enumerate(sequence, start=1):
        tip, base = states[link]
        numbers = _more(link) + _more(k) + _more(tip) + _more(base)
        for agent in graph.links[link]:
            size = shortest + numbers + _more(agent)
            sent[link] += size
            agent_bytes[agent] += size
            messages[agent] += 1
            largest = max(largest, size)
        states[link] = (k, tip)
        activations[link] += 1
    probe = sum(map(len, codec.encode_probe(Probe(0, 10**10, reply=False))))
    return LinkTraffic(
        tuple(activations),
        tuple(sent),
        tuple(messages),
        tuple(agent_bytes),
        largest,
        np.dtype(config.wire_dtype).itemsize * shape[0] * shape[1],
        probe * _PROBES_PER_SECOND,
    )


def _more(number: int) -> int:
    """Bytes that a number in a header takes beyond those of a 0."""
    return len(msgpack.packb(number)) - 1
