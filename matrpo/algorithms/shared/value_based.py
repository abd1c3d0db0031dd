"""The base of value-based algorithms (Q-learning), whose agents act epsilon-greedily on their action values."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from matrpo.algorithms.shared.off_policy import OffPolicy, masks_of, observations_of, random_actions
from matrpo.envs.vector_env import ActorInput
from matrpo.errors import ConfigError
from matrpo.networks.distributions import MASKED
from matrpo.settings.config import Config
from matrpo.spaces import Box, MultiDiscrete, TaskSpec

_MOST_COMBINATIONS = 4096


class ValueBased(OffPolicy):
    """Agents with discrete actions that explore epsilon-greedily.

    A `MultiDiscrete` agent has a value for each combination of its factors' choices; combinations are numbered, the
    last factor's choice changing fastest.

    Attributes:
        num_actions: each agent's.
    """

    settings_read = OffPolicy.settings_read | {"epsilon", "epsilon_steps"}

    def __init__(self, spec: TaskSpec, state_sizes: tuple[int, ...], config: Config) -> None:
        self._sizes = [space.sizes for space in spec.action_spaces if not isinstance(space, Box)]
        if len(self._sizes) < spec.num_agents:
            raise ConfigError(f"{config.algo} needs discrete actions: {spec.name} has continuous ones")
        self.num_actions = [math.prod(sizes) for sizes in self._sizes]
        for name, space, count in zip(spec.agents, spec.action_spaces, self.num_actions, strict=True):
            if isinstance(space, MultiDiscrete) and count > _MOST_COMBINATIONS:
                raise ConfigError(
                    f"{config.algo} cannot handle {spec.name}: it has one value for each of the {count} combinations "
                    f"of what agent {name!r}, {space}, may choose, expected at most {_MOST_COMBINATIONS}"
                )
        super().__init__(spec, state_sizes, config)

    @abstractmethod
    def utilities(self, networks: Sequence[nn.Module], observations: Sequence[Tensor]) -> list[Tensor]:
        """Each agent's action values, (M, n), by its network of `networks`; n: its combinations."""

    def indices(self, actions: Tensor) -> list[Tensor]:
        """Each agent's action, (M, 1) integers, from joint actions, (M, W)."""
        pairs = zip(self.spec.action_slices, self._sizes, strict=True)
        return [number(actions[:, part].long(), sizes) for part, sizes in pairs]

    def greedy(self, agent: int, values: Tensor, mask: Tensor | None) -> Tensor:
        """An agent's allowed actions of the highest values, (M, n) -> (M, 1); mask: (M, sum of sizes)."""
        return greedy(values, None if mask is None else combined(mask, self._sizes[agent]))

    @property
    def epsilon(self) -> float:
        """Probability of a random action now: it falls linearly from 1 to `epsilon` after the warm-up."""
        config = self.config
        if not config.epsilon_steps:
            return config.epsilon
        passed = (self.steps - config.warmup_steps) / config.epsilon_steps
        return 1.0 + (config.epsilon - 1.0) * min(max(passed, 0.0), 1.0)

    @torch.no_grad()
    def choose(self, seen: Sequence[ActorInput], generator: torch.Generator, explore: bool) -> list[Tensor]:
        """Greedy actions within the action masks; exploring, each is random with probability epsilon."""
        chosen, utilities = [], self.utilities(self.acting, observations_of(seen))
        parts = zip(self.spec.action_spaces, utilities, masks_of(seen), strict=True)
        for agent, (space, values, mask) in enumerate(parts):
            actions = choices(self.greedy(agent, values, mask), self._sizes[agent])
            if explore:
                strays = torch.rand(len(actions), 1, generator=generator) < self.epsilon
                actions = torch.where(strays, random_actions(space, mask, len(actions), generator).long(), actions)
            chosen.append(actions.float())
        return chosen


def greedy(values: Tensor, mask: Tensor | None) -> Tensor:
    """The allowed actions of the highest values. (M, n) -> (M, 1)."""
    allowed = values if mask is None else values.masked_fill(~mask, MASKED)
    return allowed.argmax(-1, keepdim=True)


def number(choices: Tensor, sizes: Sequence[int]) -> Tensor:
    """The numbers of combinations of choices, (M, K) integers -> (M, 1); the last choice changes fastest."""
    index = choices[:, :1]
    for size, chosen in zip(sizes[1:], torch.split(choices, 1, dim=1)[1:], strict=True):
        index = index * size + chosen
    return index


def choices(numbers: Tensor, sizes: Sequence[int]) -> Tensor:
    """The choices whose combinations have these numbers, the inverse of `number`. (M, 1) -> (M, K)."""
    found = []
    for size in reversed(sizes):
        found.append(numbers % size)
        numbers = numbers // size
    return torch.cat(found[::-1], dim=1)


def combined(mask: Tensor, sizes: Sequence[int]) -> Tensor:
    """The combinations of which every choice is allowed. (M, sum of sizes) -> (M, product of sizes)."""
    allowed, *others = torch.split(mask, list(sizes), dim=1)
    for other in others:
        allowed = (allowed.unsqueeze(2) & other.unsqueeze(1)).flatten(1)
    return allowed
