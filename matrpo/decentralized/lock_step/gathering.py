"""Where an iteration begins again, and when, once a server has nothing to step: from who is here and what they say."""

from __future__ import annotations

import math

from matrpo.decentralized.lock_step.membership import Membership
from matrpo.decentralized.lock_step.rules import GREATEST_LEAP, Rules


class Gathering:
    """A server gathers the agents before an iteration can begin: at its start, and whenever one was thrown away.

    Args:
        rules: of the run.
        membership: who is here.
        ended: the last iteration that the server has ended; 0 if there was none.
        returns: the run has begun before, with all its agents.

    Attributes:
        ended: as given, and later.
    """

    def __init__(self, rules: Rules, membership: Membership, ended: int, returns: bool) -> None:
        self.ended = ended
        self._rules = rules
        self._membership = membership
        self._returns = returns
        self._since: float | None = None
        self._again = False

    def begin(self) -> None:
        """Gather anew, in a run that has begun."""
        self._since, self._returns = None, True

    def until(self) -> float:
        """When an iteration begins without those that are missing: never before the run has begun with all of them."""
        if self._since is None:
            return -math.inf
        has_begun = self._returns or self._membership.credible_attempt(1) > 0
        goes_on = self._membership.connected or self.ended >= self._rules.iterations
        if self._rules.on_loss == "wait" or not (has_begun and goes_on):
            return math.inf
        return self._since + self._rules.patience

    def is_over(self, now: float) -> bool:
        """Whether all agents are here, or some are and the others do not come."""
        if self._since is None:
            self._since = now
        return not self._membership.missing or now >= self.until()

    def place(self, iteration: int, attempt: int) -> tuple[int, int]:
        """The iteration and the attempt to begin, from those that were the last."""
        iteration, known = self._believed(iteration, attempt)
        if self._again or known > attempt:
            attempt = max(attempt + 1, known)
        self._again = True
        return iteration, attempt

    def moves(self, iteration: int, attempt: int) -> bool:
        """Whether a start that nobody takes part in would be a later one, made anew.

        If not, an agent that wants a later one would hear of another attempt whenever it says so, for ever. Nor is any
        made once an agent has finished, unless the end waits for all: one that lies could put it off for ever.
        """
        if iteration > self._rules.iterations and self._membership.finished and self._rules.on_loss != "wait":
            return False
        later, known = self._believed(iteration, attempt)
        return later > iteration or known > attempt

    def _believed(self, iteration: int, attempt: int) -> tuple[int, int]:
        """The latest iteration and attempt that are more than one agent's word, after those that were the last."""
        membership = self._membership
        if membership.missing:  # one of them may be learning from what this start has not seen
            iteration = max(iteration, self.ended + 1)
        # Of one agent alone, another server may be ahead: this one follows, an iteration at a time.
        ahead = self._rules.num_servers > 1 and len(membership.connected) == 1
        iteration = max(iteration, membership.credible_iteration(max(iteration, self.ended + 1) + ahead))
        return iteration, membership.credible_attempt(attempt + GREATEST_LEAP)
