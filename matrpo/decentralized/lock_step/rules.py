"""What both sides of the lock step go by."""

from __future__ import annotations

from dataclasses import dataclass

from matrpo.decentralized.lock_step.messages import Hello, Observation, Outdated

GREATEST_LEAP = 2**20
"""Most that an attempt may grow by because the one agent that is there says so; attempts count starts."""

LATEST_INCARNATION = 2**52
"""The number from which on incarnations are in no order, so that none is the last: no process is started so often."""

Address = bytes
"""Where a message came from, and its answer goes: a connection. One agent may have several in turn."""

Answer = tuple[Address, int, Observation | Outdated]
"""An address, the agent there, and a message for it."""

News = tuple[int, str]
"""A line for the log, after its level as `logging` has it."""


@dataclass(frozen=True)
class Rules:
    """What all of a run's servers have in common.

    Attributes:
        num_agents: N.
        length: T, steps of an iteration.
        iterations: how many the run has.
        num_servers: how many servers there are.
        on_loss: the rule for lost agents: `noop`, `wait` or `abort`.
        patience: seconds to wait for agents that do not come back when an iteration begins again; `link_deadline`.
        silence: seconds that those who have acted wait for one who has not; `agent_deadline`.
    """

    num_agents: int
    length: int
    iterations: int
    num_servers: int = 1
    on_loss: str = "noop"
    patience: float = 60.0
    silence: float = 60.0

    def allows(self, hello: Hello) -> bool:
        """Whether a hello wants an iteration of the run, or the one after the last, to say goodbye in."""
        return 1 <= hello.iteration <= self.iterations + 1

    def doubt(self, hello: Hello, latest: Hello, attempt: int) -> str | None:
        """What is hard to believe of a hello, after the latest of that agent and in an attempt; None if nothing is."""
        if not self.allows(hello):
            return f"it wants iteration {hello.iteration}, expected 1 to {self.iterations + 1}"
        if hello.attempt > attempt + GREATEST_LEAP:
            return f"it has heard of attempt {hello.attempt}, but {attempt} is running"
        if hello.incarnation > latest.incarnation + GREATEST_LEAP and latest.incarnation:
            return f"it is incarnation {hello.incarnation}, after {latest.incarnation}"
        return None
