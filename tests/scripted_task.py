"""A PettingZoo environment in which agents come and go as a script says, and what each of them should see and earn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


@dataclass(frozen=True)
class Stay:
    """An agent's part in an episode: there from step `first` on, gone with step `last`, by termination or truncation.

    An episode begins with step 0, in which nobody acts: an agent acts in the steps first + 1 to `last`.
    """

    first: int
    last: int
    truncated: bool


class ScriptedTask(ParallelEnv):  # type: ignore[misc]
    """Agents named by their number see `seen(q, t)`, are paid `paid(q, t)`, and may do `allowed(q, t)` alone.

    Everybody is told everything in infos and observations, whether there or not, as some environments do.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "scripted", "render_modes": []}

    def __init__(self, stays: list[list[Stay]]) -> None:
        self._stays = stays
        self.possible_agents = list(range(len(stays)))
        self.agents: list[int] = []
        self.time = 0

    def observation_space(self, _agent: int) -> Any:
        return spaces.Box(-100.0, 100.0, (1,), np.float64)

    def action_space(self, _agent: int) -> Any:
        return spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[int, Any], dict[int, Any]]:  # noqa: ARG002
        self.time = 0
        self.agents = [q for q in self.possible_agents if self.is_there(q, 0)]
        return self._told()

    def step(self, actions: dict[int, int]) -> tuple[dict[int, Any], ...]:
        assert list(actions) == self.agents
        self.time += 1
        ends = {q: self.end(q, self.time) for q in self.possible_agents}
        self.agents = [q for q in self.possible_agents if self.is_there(q, self.time)]
        observations, infos = self._told()
        rewards = {q: paid(q, self.time) for q in self.possible_agents}
        flags = ({q: ends[q] is not None and ends[q] is how for q in self.possible_agents} for how in (False, True))
        return observations, rewards, *flags, infos

    def is_there(self, q: int, t: int) -> bool:
        return any(stay.first <= t < stay.last for stay in self._stays[q])

    def acts(self, q: int, t: int) -> bool:
        """Whether an agent acts in step t."""
        return self.is_there(q, t - 1)

    def end(self, q: int, t: int) -> bool | None:
        """Whether an agent is truncated (else terminated) with step t; None if it does not leave with it."""
        return next((stay.truncated for stay in self._stays[q] if stay.last == t), None)

    @property
    def length(self) -> int:
        """Steps of an episode: it ends when nobody is there."""
        return next(t for t in range(1, 100) if not any(self.is_there(q, t) for q in self.possible_agents))

    def _told(self) -> tuple[dict[int, Any], dict[int, Any]]:
        t = self.time
        infos = {q: {"action_mask": np.arange(3) == allowed(q, t)} for q in self.possible_agents}
        return {q: np.array([seen(q, t)]) for q in self.possible_agents}, infos


def seen(q: int, t: int) -> float:
    return 10.0 * q + t + 1


def paid(q: int, t: int) -> float:
    return q + 1 + 0.5 * t


def allowed(q: int, t: int) -> int:
    return (q + t) % 3
