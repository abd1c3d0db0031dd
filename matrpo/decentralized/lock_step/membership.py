"""Membership of agents in the environment's lock step: who takes part now, and who can next; no sockets or clocks."""

from __future__ import annotations


class Membership:
    """Tracks which agents are connected and which take part, from their hellos and lost connections.

    An agent takes part from the start of an iteration on, until it is lost or the iteration is broken; it can again
    from the next start on, once it has said hello.

    Args:
        num_agents: N.

    Attributes:
        connected: the agents that have said hello and were not lost since.
        taking_part: those whose actions the running iteration waits for.
    """

    def __init__(self, num_agents: int) -> None:
        self.connected: set[int] = set()
        self.taking_part: set[int] = set()
        self._everyone = frozenset(range(num_agents))
        self._incarnations = dict.fromkeys(self._everyone, 0)
        self._wanted = dict.fromkeys(self._everyone, 0)
        self._attempts = dict.fromkeys(self._everyone, 0)

    @property
    def missing(self) -> set[int]:
        """Agents that have not said hello, or were lost since."""
        return set(self._everyone - self.connected)

    @property
    def absent(self) -> set[int]:
        """Agents that take no part in the running iteration."""
        return set(self._everyone - self.taking_part)

    def wanted(self, agent: int) -> int:
        """The iteration in which an agent wants to act, by its last hello."""
        return self._wanted[agent]

    def latest_wanted(self) -> int:
        """The largest iteration in which anyone connected wants to act; 0 if nobody is."""
        return max((self._wanted[agent] for agent in self.connected), default=0)

    def latest_attempt(self) -> int:
        """The latest attempt that anyone connected has heard of; 0 if nobody is or has."""
        return max((self._attempts[agent] for agent in self.connected), default=0)

    def hello(self, agent: int, incarnation: int, iteration: int, attempt: int = 0) -> bool:
        """Register an agent's hello.

        Returns:
            Whether an agent that took part was restarted: its samples of the running iteration are gone.
        """
        reborn = agent in self.taking_part and incarnation != self._incarnations[agent]
        self._incarnations[agent], self._wanted[agent], self._attempts[agent] = incarnation, iteration, attempt
        self.connected.add(agent)
        if reborn:
            self.taking_part.discard(agent)
        return reborn

    def lose(self, agent: int, keep: bool) -> None:
        """Register the loss of an agent's connection.

        Args:
            agent: whose.
            keep: it still takes part, so that the running iteration waits for it.
        """
        self.connected.discard(agent)
        if not keep:
            self.taking_part.discard(agent)

    def admit(self, iteration: int) -> list[int]:
        """Admit all connected agents that want to act in `iteration` or before; returns the newcomers."""
        newcomers = sorted(q for q in self.connected - self.taking_part if self._wanted[q] <= iteration)
        self.taking_part.update(newcomers)
        return newcomers
