"""Agreement of an agent with all environment servers on the iteration to begin: no sockets, no clocks.

Each server runs the iterations by itself, but an agent's rollout needs all of them. So every start of an iteration has
a number, its *attempt*, which grows whenever a server has to begin again, and an agent acts only on starts of one
iteration and one attempt from all servers. What a server starts anew outdates what the others still run: the agent
wants the latest iteration and the latest attempt that any server has told it of, and says so, in a hello, to those that
are behind. A server that hears of a later attempt than its own, or of a later iteration from an agent that takes part
in the running one, breaks off and begins again at the latest that its agents want. Attempts and iterations only grow,
so that all servers arrive at the same; and since an agent that has learnt from an iteration wants the next, none is
learnt from twice.
"""

from __future__ import annotations

from matrpo.decentralized.lock_step.messages import Observation


class Starts:
    """Tracks the latest start of an iteration that each environment server has announced to an agent.

    Args:
        num_servers: S.
    """

    def __init__(self, num_servers: int) -> None:
        self._latest: list[Observation | None] = [None] * num_servers

    def hear(self, server: int, start: Observation) -> None:
        """Record a server's start of an iteration; an outdated one changes nothing."""
        latest = self._latest[server]
        if latest is None or (start.attempt, start.iteration) > (latest.attempt, latest.iteration):
            self._latest[server] = start

    def target(self, wanted: int) -> tuple[int, int]:
        """The iteration and the attempt to act in, for an agent that can act in `wanted` and later."""
        known = self._known
        iteration = max((start.iteration for start in known), default=wanted)
        return max(iteration, wanted), max((start.attempt for start in known), default=0)

    def behind(self, wanted: int) -> list[int]:
        """The servers that have not announced the target's start."""
        target = self.target(wanted)
        return [
            k for k, start in enumerate(self._latest) if start is None or (start.iteration, start.attempt) != target
        ]

    def agreed(self, wanted: int) -> list[Observation]:
        """The target's start from each server, once all have announced it; none before."""
        return [] if self.behind(wanted) else self._known

    def outdate(self, iteration: int, attempt: int) -> bool:
        """Whether a server has started something later than this, which can then not be finished."""
        return any(start.iteration > iteration or start.attempt > attempt for start in self._known)

    @property
    def _known(self) -> list[Observation]:
        return [start for start in self._latest if start is not None]
