"""Metrics of one process in one iteration: names and values of its line in metrics.jsonl."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from matrpo.consensus.link_types import Counters
from matrpo.consensus.peer import Peer
from matrpo.runs.phase_clock import PhaseClock

_TRAFFIC = ("messages_sent", "bytes_sent", "messages_received", "bytes_received", "unsent")
"""Traffic counters of a link; 0 on links without sockets."""

_LINK_TOTALS = ("commits", "give_ups", "skips", "resends", "quarantines", *_TRAFFIC)
"""Counters that are summed over all links."""


def agent_metrics(
    learning: Mapping[str, float],
    peer: Peer,
    clock: PhaseClock,
    traffic: Mapping[int, Mapping[str, Any]] | None = None,
    connections: Mapping[int, Mapping[str, Any]] | None = None,
    refused: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """An agent's metrics of one iteration: learning, totals over all its links, and `links`, those of each link.

    A link's `states` are fingerprints by number: of those that its two ends share, the fingerprints must be equal.

    Args:
        learning: metrics from `Agent.finish_update`.
        peer: the agent's consensus peer.
        clock: of this agent, kept from one iteration to the next.
        traffic: counters of what has gone through its links so far, by neighbour, and `refused`: what was not taken, by
            reason. None where there are no sockets.
        connections: how their connections are doing, by neighbour: what to say of them beside the counters.
        refused: what was turned away at all its sockets so far, strangers' included, by reason.
    """
    traffic, connections = traffic or {}, connections or {}
    links = {
        str(link.neighbour): _link_counters(peer.link_counters[number], traffic.get(link.neighbour, {}))
        for number, link in sorted(peer.links.items(), key=lambda item: item[1].neighbour)
    }
    counters: dict[str, Any] = {name: sum(link[name] for link in links.values()) for name in _LINK_TOTALS}
    counters["rejected"] = sum(sum(link["rejected"].values()) for link in links.values())
    grown = clock.take({**counters, "refused": dict(refused or {}), "links": links})
    for link in peer.links.values():
        grown["links"][str(link.neighbour)]["states"] = link.fingerprints()
    for neighbour, connection in connections.items():
        grown["links"][str(neighbour)] |= connection
    return {**learning, "consensus_residual": peer.residual(), **grown}


def _link_counters(counters: Counters, traffic: Mapping[str, Any]) -> dict[str, Any]:
    own = {**vars(counters), **dict.fromkeys(_TRAFFIC, 0), **traffic}
    rejected = Counter(own.pop("drops")) + Counter(own.pop("refused", {}))
    return {**own, "rejected": dict(rejected)}


def environment_metrics(
    episodes: Mapping[str, Any], samples: int, seconds: float, rollout: float, absent: int = 0, substituted: int = 0
) -> dict[str, Any]:
    """The environment's metrics of one iteration.

    Args:
        episodes: metrics from `SharedEnvironment.take_metrics`.
        samples: environment steps of the iteration.
        seconds: wall-clock time since the iteration before ended.
        rollout: wall-clock time of the rollout alone.
        absent: agents that took no part in it, or not to its end.
        substituted: steps of the rollout in which the task's default actions stood in for an agent's.
    """
    return {
        **episodes,
        "agents_absent": absent,
        "steps_substituted": substituted,
        "steps_per_second": samples / seconds,
        "rollout_steps_per_second": samples / rollout,
        "seconds_rollout": rollout,
    }
