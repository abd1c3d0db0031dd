"""Membership of agents in the environment's lock step: who is there, who takes part now, and who can next."""

from __future__ import annotations

import math
from collections.abc import Iterable

from matrpo.decentralized.lock_step.messages import Hello

_LONGEST_BAR = 64
"""Longest time for which an agent that was silent is kept out, in deadlines."""


class Membership:
    """Tracks which agents are connected and which take part, from their hellos and lost connections.

    An agent takes part from the start of an iteration on, until it is lost, leaves, or the iteration is broken; it can
    again from the next start on, once it has said hello.

    Args:
        num_agents: N.

    Attributes:
        connected: the agents that have said hello and were not lost since.
        taking_part: those whose actions the running iteration waits for, or would, had they not left it.
        newcomers: of those, who was admitted at this iteration's start and has not acted in the one before.
        left: of those, who has said that it acts in a later iteration or attempt: it is done with this one.
        finished: the agents that have said goodbye.
    """

    def __init__(self, num_agents: int) -> None:
        self.connected: set[int] = set()
        self.taking_part: set[int] = set()
        self.newcomers: set[int] = set()
        self.left: set[int] = set()
        self.finished: set[int] = set()
        self._everyone = frozenset(range(num_agents))
        self._hellos = {agent: Hello(agent, 0, 0) for agent in self._everyone}
        self._silences = dict.fromkeys(self._everyone, 0)
        self._barred_until = dict.fromkeys(self._everyone, -math.inf)

    @property
    def missing(self) -> set[int]:
        """Agents that have not said hello, or were lost since, and have not finished."""
        return set(self._everyone - self.connected - self.finished)

    @property
    def absent(self) -> set[int]:
        """Agents that take no part in the running iteration."""
        return set(self._everyone - self.taking_part) | self.left

    @property
    def active(self) -> set[int]:
        """Agents that take part and have not said goodbye."""
        return self.taking_part - self.finished

    @property
    def unfinished(self) -> set[int]:
        """Agents that have not said goodbye."""
        return set(self._everyone - self.finished)

    def outside(self, now: float) -> set[int]:
        """The agents that are here, and have to wait for a later start."""
        barred = {agent for agent, until in self._barred_until.items() if until > now}
        return self.connected - self.taking_part - self.finished - barred

    def beyond(self, iteration: int, attempt: int) -> set[int]:
        """The agents that are here and want a later iteration, or know of a later attempt."""
        hellos = {agent: self._hellos[agent] for agent in self.connected}
        return {agent for agent, hello in hellos.items() if hello.iteration > iteration or hello.attempt > attempt}

    def leave(self, agent: int, iteration: int, attempt: int) -> None:
        """Note that an agent that takes part has left this iteration and attempt, if it is beyond them."""
        self.left |= {agent} & self.taking_part & self.beyond(iteration, attempt)

    def latest(self, agent: int) -> Hello:
        """An agent's last hello; of incarnation 0 if there was none."""
        return self._hellos[agent]

    def hello(self, hello: Hello) -> bool:
        """Register an agent's hello.

        Returns:
            Whether an agent that took part was restarted: its samples of the running iteration are gone.
        """
        agent = hello.sender
        reborn = agent in self.taking_part and hello.incarnation != self._hellos[agent].incarnation
        self._hellos[agent] = hello
        self.connected.add(agent)
        self.finished.discard(agent)
        if reborn:
            self.drop(agent)
        return reborn

    def drop(self, agent: int) -> None:
        """An agent takes no part in the running iteration any more."""
        self.taking_part.discard(agent)
        self.left.discard(agent)

    def begin(self) -> None:
        """A new iteration begins: who has left the last one can take part again once it is admitted."""
        self.taking_part -= self.left
        self.left.clear()
        self.newcomers.clear()

    def bar(self, agent: int, now: float, seconds: float) -> None:
        """Keep an agent out that has kept the others waiting so long: as long as that, and twice as long each time.

        So all that it costs, however often it comes back, is a share of the run that shrinks with each time.
        """
        self._silences[agent] += 1
        self._barred_until[agent] = now + seconds * min(2 ** (self._silences[agent] - 1), _LONGEST_BAR)

    def admit(self, iteration: int, attempt: int, now: float) -> list[int]:
        """Admit all connected agents that want this iteration and attempt, or earlier ones; returns the newcomers.

        Agents that are barred are admitted if nobody else takes part.
        """
        fit = [
            agent
            for agent in sorted(self.connected - self.taking_part - self.finished)
            if self._hellos[agent].iteration <= iteration and self._hellos[agent].attempt <= attempt
        ]
        newcomers = [agent for agent in fit if self._barred_until[agent] <= now]
        if not newcomers and not self.taking_part:
            newcomers = fit
        self.taking_part.update(newcomers)
        self.newcomers.update(newcomers)
        return newcomers

    def credible_iteration(self, known: int) -> int:
        """The latest iteration that an agent wants and that is more than its word: `known`, or one that another wants.

        Of a run of one agent, that agent knows.
        """
        wanted = [self._hellos[agent].iteration for agent in self.connected]
        return max(wanted, default=0) if len(self._everyone) == 1 else _second(known, wanted)

    def credible_attempt(self, alone: int) -> int:
        """The latest attempt that two agents here know of; up to `alone`, that one if all others have finished."""
        known = _second(0, [self._hellos[agent].attempt for agent in self.connected])
        left = self.connected - self.finished or self.connected
        return max(known, min(self._hellos[min(left)].attempt, alone)) if len(left) == 1 else known


def _second(known: int, claims: Iterable[int]) -> int:
    """The second largest of some claims; the largest as far as it does not go beyond what is known."""
    first, second = sorted([0, 0, *claims])[:-3:-1]
    return max(second, min(first, known))
