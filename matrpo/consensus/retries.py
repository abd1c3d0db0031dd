"""When one end of a link asks for ratios that do not come, and how often it sends its own: both follow the losses seen.

On a link that has lost nothing, ratios are sent once, and questions come after 1/32 of the largest interval, each later
one after twice the time: a neighbour that takes its time is not pestered. But once a question is followed by nothing at
all, it may be lost itself, and others come after 1/8 of that interval at most. On a link that loses messages, each loss
would cost all who wait for this agent in turn. So questions come at intervals of a round trip, and ratios are sent in
up to `_MOST_COPIES` copies, one more with each activation that lost some, one less after `_CALM` commits without.
"""

from __future__ import annotations

import math

_MOST_COPIES = 4
_CALM = 16
_AT_ONCE = 8
"""Questions at intervals of a round trip, on a link with losses; these then double up to the usual first interval."""


class Retries:
    """Intervals between the questions of one end of a link, and copies of its ratios.

    Args:
        resend: largest interval between two questions, in seconds.

    Attributes:
        copies: how often to send ratios; more than one if messages were lost lately.
        ask_at: the time of the next question about the open activation.
    """

    def __init__(self, resend: float) -> None:
        self.copies = 1
        self.ask_at = 0.0
        self._longest = resend
        self._first = resend / 32
        self._round_trip = resend / 256
        self._shortest = resend / 1024
        self._interval = 0.0
        self._questions = 0
        self._asked_at = 0.0
        self._told_at = math.inf
        self._lost = (-1, 0)
        self._calm = 0

    def open(self, now: float) -> None:
        """Begin to wait for the ratios of an activation."""
        self._interval = self._first if self.copies == 1 else self._round_trip
        self._questions = 0
        self._told_at = math.inf
        self.ask_at = now + self._interval

    def ask(self, now: float, heard_at: float) -> None:
        """Count a question, and set the time of the next; `heard_at` is when the neighbour last said anything."""
        self._questions += 1
        if self.copies == 1:
            longest = self._longest if heard_at >= self._asked_at else self._longest / 8
            self._interval = min(2 * self._interval, longest)
        elif self._questions > _AT_ONCE:
            self._interval = max(self._interval, min(2 * self._interval, self._first))
        self._asked_at = now
        self.ask_at = now + self._interval

    def hear_answer(self, now: float) -> None:
        """Learn the time of a round trip from the answer to a question; it is followed by another."""
        if self._questions:
            seconds = max(self._shortest, now - self._asked_at)
            self._round_trip = min(seconds, self._round_trip + (seconds - self._round_trip) / 4)

    def insist(self, position: tuple[int, int], now: float) -> None:
        """Set the time of the next question after one about ratios that are known to be lost."""
        self.note_loss(position)
        self._interval = self._round_trip
        self._questions = 0
        self.ask_at = now + self._interval

    def told_in_vain(self, now: float) -> bool:
        """Whether a question comes a round trip after another was answered with word that the ratios were sent.

        That is looked at on links with losses alone: on others, the questions may have crossed the ratios.
        """
        if self.copies > 1 and now >= self._told_at + self._round_trip:
            return True
        self._told_at = min(self._told_at, now)
        return False

    def note_loss(self, position: tuple[int, int]) -> None:
        """Note that ratios for an activation were lost, at either end, once for each activation."""
        if position != self._lost:
            self._lost = position
            self._calm = 0
            self.copies = min(self.copies + 1, _MOST_COPIES)

    def note_commit(self) -> None:
        """Note a commit; many without a loss make the copies fewer."""
        self._calm += 1
        if self._calm >= _CALM:
            self._calm = 0
            self.copies = max(self.copies - 1, 1)
