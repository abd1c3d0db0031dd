"""Deterministic policy gradients with a centralised critic: the base of DDPG and TD3. M: minibatch, S: state size."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from matrpo.algorithms.shared.off_policy import OffPolicy, observations_of
from matrpo.algorithms.shared.replay import Batch, JointObservation
from matrpo.envs.vector_env import ActorInput
from matrpo.errors import ConfigError
from matrpo.networks.mlp import MLP
from matrpo.networks.optimizer import make_adam
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


class DeterministicGradient(OffPolicy):
    """Critics regress on TD targets, policies ascend the first critic; a subclass sets the order and the actions.

    The reward is the team's: the critics of MADDPG's N agents would have the same targets, so one is enough.

    Attributes:
        num_critics: how many critics learn; the least of their targets counts.
    """

    handles_masks = False
    num_critics = 1
    settings_read = OffPolicy.settings_read | {"actor_lr", "exploration_noise"}

    def __init__(self, spec: TaskSpec, state_sizes: tuple[int, ...], config: Config) -> None:
        if config.share_parameters:
            raise ConfigError(f"{config.algo}: every agent has a policy of its own: leave share_parameters out")
        for name, space in zip(spec.agents, spec.action_spaces, strict=True):
            if isinstance(space, Box) and not all(space.bounded):
                raise ConfigError(
                    f"{config.algo} cannot handle {spec.name}: component {space.bounded.index(False)} of the actions "
                    f"of agent {name!r}, {space}, has no bounds"
                )
        super().__init__(spec, state_sizes, config)
        pairs = list(zip(spec.observation_sizes, spec.action_spaces, strict=True))
        self.actors = [Policy(*pair, config, self.generator).to(self.device) for pair in pairs]
        self.target_actors = [self.make_target(f"policy.{q}", actor) for q, actor in enumerate(self.actors)]
        sizes = (state_sizes[0] + sum(space.parameters for space in spec.action_spaces), *config.hidden_sizes, 1)
        self.value_networks = [MLP(sizes, config, self.generator).to(self.device) for _ in range(self.num_critics)]
        self.critics |= {f"critic.{j}": network for j, network in enumerate(self.value_networks)}
        self.target_values = [self.make_target(f"critic.{j}", network) for j, network in enumerate(self.value_networks)]
        parameters = [parameter for network in self.value_networks for parameter in network.parameters()]
        self.optimizers["critic"] = make_adam(parameters, lr=config.critic_lr)
        for q, actor in enumerate(self.actors):
            self.optimizers[f"policy.{q}"] = make_adam(actor.parameters(), lr=config.actor_lr)

    @abstractmethod
    def improve(self, batch: Batch) -> None:
        """Update every agent's policy, by `ascend`."""

    def learn(self, batch: Batch) -> dict[str, float]:
        """Update the critics, then, if due, the policies and the target networks."""
        metrics = self._fit(batch)
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
        values = torch.stack([q_values(critic, batch.later.state, actions) for critic in self.target_values])
        return batch.rewards + batch.discounts * values.amin(0)

    def ascend(self, agent: int, batch: Batch, actions: list[Tensor]) -> None:
        """One gradient step of an agent's policy up the mean Q where it is alive; its own of `actions` depend on it."""
        alive = batch.now.alive[:, agent]
        values = q_values(self.value_networks[0], batch.now.state, actions)
        self.descend(f"policy.{agent}", -(values * alive).sum() / alive.sum().clamp_min(1))

    def encoded(self, batch: Batch) -> list[Tensor]:
        """Every agent's action in the batch, encoded for the critics."""
        parts = zip(self.spec.action_slices, self.spec.action_spaces, strict=True)
        return [encode(space, batch.actions[:, part]) for part, space in parts]

    @torch.no_grad()
    def choose(self, seen: Sequence[ActorInput], generator: torch.Generator, explore: bool) -> list[Tensor]:
        """The policies' actions; exploring, with Gaussian noise on continuous and Gumbel noise on discrete ones."""
        chosen = []
        for space, actor, observation in zip(self.spec.action_spaces, self.acting, observations_of(seen), strict=True):
            actions = actor(observation, generator if explore else None)
            if not isinstance(space, Box):
                choices = torch.split(actions, list(space.sizes), dim=1)
                actions = torch.cat([choice.argmax(-1, keepdim=True) for choice in choices], dim=1).float()
            elif explore:
                actions = noisy(actions, self.config.exploration_noise, math.inf, generator)
            chosen.append(actions)
        return chosen

    def _fit(self, batch: Batch) -> dict[str, float]:
        targets, actions = self.targets(batch), self.encoded(batch)
        values = [q_values(critic, batch.now.state, actions) for critic in self.value_networks]
        losses = [self.loss(value, None, targets) for value in values]
        self.descend("critic", torch.stack(losses).sum())
        return {"critic_loss": float(losses[0].detach()), "value_mean": float(values[0].detach().mean())}


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


def encode(space: ActionSpace, actions: Tensor) -> Tensor:
    """Actions encoded for the critics: one-hot choices side by side if discrete. (M, width) -> (M, parameters)."""
    if isinstance(space, Box):
        return actions
    choices = zip(actions.long().unbind(1), space.sizes, strict=True)
    return torch.cat([nn.functional.one_hot(chosen, n) for chosen, n in choices], dim=1).float()


def q_values(critic: nn.Module, states: Tensor, actions: Sequence[Tensor]) -> Tensor:
    """Q(s, a), (M,), of states, (M, S), and each agent's encoded actions."""
    values: Tensor = critic(torch.cat([states, *actions], dim=1))
    return values.squeeze(1)


def noisy(actions: Tensor, deviation: float, limit: float, generator: torch.Generator) -> Tensor:
    """Actions of a `Box` with clipped Gaussian noise, within bounds; all in half ranges."""
    noise = torch.randn(actions.shape, generator=generator).to(actions.device) * deviation
    return (actions + noise.clamp(-limit, limit)).clamp(-1.0, 1.0)


def one_hot(scores: Tensor) -> Tensor:
    """One-hot rows: 1 at the largest score of each row, 0 elsewhere."""
    return nn.functional.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)


def gumbel_softmax(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draws from categorical distributions as one-hot vectors, with the softmax's gradient (Jang et al., section 2.2).

    The estimator is straight-through and its temperature 1.
    """
    exponential = torch.empty_like(logits, requires_grad=False, device="cpu").exponential_(generator=generator)
    scores = logits - exponential.log().to(logits.device)
    soft = scores.softmax(-1)
    return one_hot(scores) + (soft - soft.detach())
