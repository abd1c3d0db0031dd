"""The base of value-based algorithms (Q-learning), whose agents act epsilon-greedily on their action values."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from matrpo.algorithms.shared.off_policy import OffPolicy, masks_of, observations_of, random_actions
from matrpo.envs.vector_env import ActorInput
from matrpo.errors import ConfigError
from matrpo.networks.distributions import MASKED
from matrpo.settings.config import Config
from matrpo.spaces import Discrete, TaskSpec


class ValueBased(OffPolicy):
    """Agents with discrete actions that explore epsilon-greedily.

    Attributes:
        num_actions: each agent's.
    """

    settings_read = OffPolicy.settings_read | {"epsilon", "epsilon_steps"}

    def __init__(self, spec: TaskSpec, state_sizes: tuple[int, ...], config: Config) -> None:
        if not all(isinstance(space, Discrete) for space in spec.action_spaces):
            raise ConfigError(f"{config.algo} needs discrete actions: {spec.name} has continuous ones")
        super().__init__(spec, state_sizes, config)
        self.num_actions = [space.n for space in spec.action_spaces if isinstance(space, Discrete)]

    @abstractmethod
    def utilities(self, networks: Sequence[nn.Module], observations: Sequence[Tensor]) -> list[Tensor]:
        """Each agent's action values, (M, n), by its network of `networks`."""

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
        chosen, utilities = [], self.utilities(self.actors, observations_of(seen))
        for space, values, mask in zip(self.spec.action_spaces, utilities, masks_of(seen), strict=True):
            actions = greedy(values, mask)
            if explore:
                strays = torch.rand(len(actions), 1, generator=generator) < self.epsilon
                actions = torch.where(strays, random_actions(space, mask, len(actions), generator).long(), actions)
            chosen.append(actions.float())
        return chosen


def greedy(values: Tensor, mask: Tensor | None) -> Tensor:
    """The allowed actions of the highest values. (M, n) -> (M, 1)."""
    allowed = values if mask is None else values.masked_fill(~mask, MASKED)
    return allowed.argmax(-1, keepdim=True)


def indices(actions: Tensor) -> list[Tensor]:
    """Each agent's action index, (M, 1) integers, from joint actions, (M, N)."""
    return [actions[:, q : q + 1].long() for q in range(actions.shape[1])]
