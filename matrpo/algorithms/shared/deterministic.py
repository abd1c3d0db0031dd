"""Deterministic policy gradients with a centralised critic: the base of DDPG and TD3. M: minibatch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from matrpo.algorithms.shared.central_critic import (
    CentralCritic,
    decode,
    gumbel_softmax,
    least_q_values,
    one_hot,
    q_values,
)
from matrpo.algorithms.shared.off_policy import observations_of
from matrpo.algorithms.shared.replay import Batch, JointObservation
from matrpo.envs.vector_env import ActorInput
from matrpo.networks.mlp import MLP
from matrpo.settings.config import Config
from matrpo.settings.sections import NetworkSettings
from matrpo.spaces import ActionSpace, Box, TaskSpec


class Policy(nn.Module):
    """A deterministic policy mu(o): tanh for a `Box`, whose bounds are at -1 and 1, else one-hot choices.

    Args:
        observation_size: length of an observation.
        space: where actions are from.
        networks: what the network is like.
        generator: source of the initial weights.
    """

    def __init__(
        self, observation_size: int, space: ActionSpace, networks: NetworkSettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        self._space = space
        sizes = (observation_size, *networks.hidden_sizes, space.parameters)
        self._network = MLP(sizes, networks, generator, 0.01)

    def forward(self, observations: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Actions, (batch, encoded size); choices are drawn by Gumbel-softmax if there is a generator."""
        outputs: Tensor = self._network(observations)
        if isinstance(self._space, Box):
            return outputs.tanh()
        scores = torch.split(outputs, list(self._space.sizes), dim=1)
        return torch.cat([one_hot(x) if generator is None else gumbel_softmax(x, generator) for x in scores], dim=1)


class DeterministicGradient(CentralCritic):
    """Policies ascend the first critic; a subclass sets the order and the actions."""

    handles_masks = False
    settings_read = CentralCritic.settings_read | {"exploration_noise"}

    def __init__(self, spec: TaskSpec, state_sizes: tuple[int, ...], config: Config) -> None:
        super().__init__(spec, state_sizes, config)
        self.target_actors = [self.make_target(f"policy.{q}", actor) for q, actor in enumerate(self.actors)]

    def make_policy(self, observation_size: int, space: ActionSpace) -> Policy:
        return Policy(observation_size, space, self.config, self.generator)

    @abstractmethod
    def improve(self, batch: Batch) -> None:
        """Update every agent's policy, by `ascend`."""

    def learn(self, batch: Batch) -> dict[str, float]:
        """Update the critics, then, if due, the policies and the target networks."""
        metrics = self.fit(batch)
        if self.policies_are_due():
            self.improve(batch)
            self.move_targets()
        return metrics

    def policies_are_due(self) -> bool:
        """Whether this update improves the policies too."""
        return True

    def target_actions(self, later: JointObservation) -> list[Tensor]:
        """The target policies' actions, encoded for the critics."""
        pairs = zip(self.target_actors, later.observations, strict=True)
        return [actor(observation, self.generator) for actor, observation in pairs]

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """n-step targets y = R + gamma^n min_j Q_j^(s', a^'), ^: target networks; Algorithms 6 and 7 of HARL. (M,)."""
        actions = self.target_actions(batch.later)
        return batch.rewards + batch.discounts * least_q_values(self.target_values, batch.later.state, actions)

    def ascend(self, agent: int, batch: Batch, actions: list[Tensor]) -> None:
        """One gradient step of an agent's policy up the mean Q where it is alive; its own of `actions` depend on it."""
        self.maximise(agent, batch, q_values(self.value_networks[0], batch.now.state, actions))

    @torch.no_grad()
    def choose(self, seen: Sequence[ActorInput], generator: torch.Generator, explore: bool) -> list[Tensor]:
        """The policies' actions; exploring, with Gaussian noise on continuous and Gumbel noise on discrete ones."""
        chosen = []
        for space, actor, observation in zip(self.spec.action_spaces, self.acting, observations_of(seen), strict=True):
            actions = decode(space, actor(observation, generator if explore else None))
            if explore and isinstance(space, Box):
                actions = noisy(actions, self.config.exploration_noise, math.inf, generator)
            chosen.append(actions)
        return chosen


class TwinDelayed(DeterministicGradient):
    """TD3's three remedies: clipped double Q-learning, delayed policies, smoothed target actions (Algorithm 7)."""

    num_critics = 2
    settings_read = DeterministicGradient.settings_read | {"policy_delay", "policy_noise", "noise_clip"}

    def policies_are_due(self) -> bool:
        """At every `policy_delay`-th update."""
        return self.updates % self.config.policy_delay == 0

    def target_actions(self, later: JointObservation) -> list[Tensor]:
        """Smoothed target actions: clip(mu^(o') + clip(noise, -c, c), -1, 1); Gumbel noise for discrete ones."""
        config = self.config
        return [
            noisy(actions, config.policy_noise, config.noise_clip, self.generator)
            if isinstance(space, Box)
            else actions
            for space, actions in zip(self.spec.action_spaces, super().target_actions(later), strict=True)
        ]


def noisy(actions: Tensor, deviation: float, limit: float, generator: torch.Generator) -> Tensor:
    """Actions of a `Box` with clipped Gaussian noise, within bounds; all in half ranges."""
    noise = torch.randn(actions.shape, generator=generator).to(actions.device) * deviation
    return (actions + noise.clamp(-limit, limit)).clamp(-1.0, 1.0)
