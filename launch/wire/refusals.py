"""Refused messages and connections: counted by reason and logged without flooding the log; and rate limits."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable

from matrpo.launch.wire.frames import WireError

_LOG = logging.getLogger(__name__)
_LONGEST_REASON = 200
_MESSAGES_PER_SECOND = 10_000.0
_BURST = 10_000.0


class Refusals:
    """Counts what is refused, by reason. The log names the first of each reason, then ever fewer.

    Threads may share one.

    Args:
        origin: whom it came from, in words.
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def counts(self) -> dict[str, int]:
        """How many were refused so far, by reason."""
        with self._lock:
            return dict(self._counts)

    @property
    def total(self) -> int:
        """How many were refused so far."""
        return sum(self.counts.values())

    def add(self, error: WireError, origin: str | None = None) -> None:
        """Count one more, under the error's reason; reasons are few, whatever the other side sends.

        Args:
            error: what is wrong.
            origin: whom it came from, if that is known better.
        """
        with self._lock:
            self._counts[error.reason] += 1
            count = self._counts[error.reason]
        if count & (count - 1) == 0:
            text = str(error)[:_LONGEST_REASON]
            _LOG.warning("refused number %d (%s) from %s: %s", count, error.reason, origin or self._origin, text)


class TokenBucket:
    """A token bucket, which limits the rate of messages: a burst at once, and so many a second on average.

    Args:
        rate: tokens that come back each second.
        burst: tokens that the full bucket holds.
        now: reads a monotonic clock, in seconds.
    """

    def __init__(
        self, rate: float = _MESSAGES_PER_SECOND, burst: float = _BURST, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._now = now
        self._tokens = burst
        self._at = now()

    def allows(self) -> bool:
        """Take a token; False if there is none."""
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class RateLimits:
    """One `TokenBucket` for each peer, so that none can take another's share of this process's time."""

    def __init__(self) -> None:
        self._buckets: defaultdict[str, TokenBucket] = defaultdict(TokenBucket)

    def check(self, peer: str) -> None:
        """Count one message of a peer whose identity is proven; there are few of those. "" stands for all others.

        Raises:
            WireError: the peer has sent too many.
        """
        if peer and not self._buckets[peer].allows():
            raise WireError("more messages than a peer may send", "too many messages")
