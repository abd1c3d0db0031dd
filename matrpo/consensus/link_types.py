"""Settings of links, outcomes of their activations, and their event counters."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

DROP_REASONS = ("address", "header", "incarnation", "payload", "late", "no common state")
"""Why messages are dropped: unknown sender; bad header field; older incarnation; payload that is missing, extra, of the
wrong shape or type, too large or not finite; activation that is over; ends of the link without a common state."""


@dataclass
class Counters:
    """Event counters of one or several links since the agent was started; `drops` counts by `DROP_REASONS`."""

    commits: int = 0
    give_ups: int = 0
    skips: int = 0
    resends: int = 0
    quarantines: int = 0
    drops: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DROP_REASONS, 0))

    def __add__(self, other: Counters) -> Counters:
        return Counters(
            self.commits + other.commits,
            self.give_ups + other.give_ups,
            self.skips + other.skips,
            self.resends + other.resends,
            self.quarantines + other.quarantines,
            {reason: self.drops[reason] + other.drops[reason] for reason in DROP_REASONS},
        )


class Outcome(Enum):
    """How the last activation of a link ended."""

    COMMITTED = "committed"
    GIVEN_UP = "given up"
    SKIPPED = "skipped"
    REFUSED = "refused by a busy neighbour"


@dataclass(frozen=True)
class LinkSettings:
    """Settings that all links of an agent share.

    Attributes:
        agent: this agent's id.
        incarnation: how often this agent's process was started.
        beta: ADMM penalty.
        last_k: largest activation number of an iteration.
        wire_dtype: float32 or float16.
        deadline: seconds from the opening of an activation until it is given up.
        resend: largest retry interval, in seconds, of requests for a neighbour's ratios (exponential back-off): the
            first comes after 1/32 of it, each later one after twice the time, but after 1/8 of it at most once
            nothing at all has come from the neighbour since the question before.
    """

    agent: int
    incarnation: int
    beta: float
    last_k: int
    wire_dtype: np.dtype[Any]
    deadline: float
    resend: float
