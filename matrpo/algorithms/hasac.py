"""HASAC: heterogeneous-agent soft actor-critic (Liu et al., "Maximum entropy heterogeneous-agent reinforcement
learning", ICLR 2024, section 4.2 and Algorithm 2). M: minibatch; N: agents."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from matrpo.algorithms.shared.central_critic import CentralCritic, decode, gumbel_softmax, least_q_values, one_hot
from matrpo.algorithms.shared.off_policy import masks_of, observations_of
from matrpo.algorithms.shared.replay import Batch, JointObservation
from matrpo.envs.vector_env import ActorInput
from matrpo.networks.distributions import MASKED
from matrpo.networks.mlp import MLP
from matrpo.networks.optimizer import make_adam
from matrpo.settings.config import Config
from matrpo.settings.sections import NetworkSettings
from matrpo.spaces import ActionSpace, Box, TaskSpec

_LOG_STD_RANGE = (-20.0, 2.0)


class HASAC(CentralCritic):
    """Stochastic policies ascend twin soft critics in turn, each given the new actions of those before it.

    The objective is the return plus every agent's entropy, weighted by its temperature alpha^i, at each step.
    """

    num_critics = 2
    settings_read = CentralCritic.settings_read | {"agent_order", "temperature", "temperature_lr", "target_entropy"}

    def __init__(self, spec: TaskSpec, state_sizes: tuple[int, ...], config: Config) -> None:
        super().__init__(spec, state_sizes, config)
        initial = 1.0 if config.temperature is None else config.temperature
        self.temperatures = Temperatures(spec.num_agents, initial).to(self.device)
        self.critics["temperatures"] = self.temperatures
        if config.temperature is None:
            self.optimizers["temperatures"] = make_adam(self.temperatures.parameters(), lr=config.temperature_lr)

    def make_policy(self, observation_size: int, space: ActionSpace) -> StochasticPolicy:
        return StochasticPolicy(observation_size, space, self.config, self.generator)

    def learn(self, batch: Batch) -> dict[str, float]:
        """Update critics, policies, temperatures and target networks: one pass of Algorithm 2."""
        metrics = self.fit(batch)
        log_probs = self.improve(batch)
        if self.config.temperature is None:
            self.adjust(batch.now, log_probs)
        self.move_targets()
        alive = batch.now.alive
        entropy = float(-(log_probs * alive).sum() / alive.sum().clamp_min(1))
        return {**metrics, "entropy": entropy, "temperature": float(self.temperatures.values.mean())}

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """Soft n-step targets y = R + gamma^n (min_j Q_j^(s', a') - sum_i alpha^i log pi^i(a'^i)), ^: target. (M,).

        The actions a' are drawn by the policies; the sum is over agents that are alive. As in HARL's code, entropies of
        the steps between do not count. It learns one more temperature, for the critics; here each agent's own weighs
        its entropy in the targets as in its objective.
        """
        later = batch.later
        draws = self.draws(later)
        values = least_q_values(self.target_values, later.state, [draw.actions for draw in draws])
        log_probs = torch.stack([draw.log_prob for draw in draws], dim=1)
        bonus = -(log_probs * self.temperatures.values * later.alive).sum(1)
        return batch.rewards + batch.discounts * (values + bonus)

    def improve(self, batch: Batch) -> Tensor:
        """Update every agent's policy in turn; log probabilities of actions by the policies before that, (M, N)."""
        draws = self.draws(batch.now)
        old = [draw.actions for draw in draws]
        for agent, actions in self.in_turn(old, lambda agent: self.draw(agent, batch.now).actions):
            self.ascend(agent, batch, actions, draws[agent].log_prob)
        return torch.stack([draw.log_prob.detach() for draw in draws], dim=1)

    def ascend(self, agent: int, batch: Batch, actions: list[Tensor], log_prob: Tensor) -> None:
        """Agent i_m's policy ascends min_j Q_j(s, a_new^{i_1:m-1}, a^{i_m}, a_old^{i_m+1:n}) - alpha log pi(a^{i_m}).

        Args:
            agent: i_m.
            batch: the transitions.
            actions: each agent's, encoded; its own depend on its policy.
            log_prob: (M,), of its own; it depends on its policy as well.
        """
        values = least_q_values(self.value_networks, batch.now.state, actions)
        self.maximise(agent, batch, values - self.temperatures.values[agent] * log_prob)

    def adjust(self, now: JointObservation, log_probs: Tensor) -> None:
        """One gradient step of all temperatures down E[-log alpha^i (log pi^i + target entropy of i)] where i is alive.

        Of Haarnoja et al., "Soft actor-critic algorithms and applications", 2018, eq. (18), with log alpha for alpha.

        Args:
            now: where the actions were drawn.
            log_probs: theirs, (M, N).
        """
        alive = now.alive
        gaps = ((log_probs + self.target_entropies(now)) * alive).sum(0) / alive.sum(0).clamp_min(1)
        self.descend("temperatures", -(self.temperatures.logarithms * gaps).sum())

    def target_entropies(self, now: JointObservation) -> Tensor:
        """Each agent's target entropy, (M, N): of a `Box` -size, else a share of the largest that its mask allows."""
        size, columns = len(now.state), []
        for space, mask in zip(self.spec.action_spaces, now.action_masks, strict=True):
            if isinstance(space, Box):
                columns.append(now.state.new_full((size,), -float(space.size)))
            else:
                columns.append(self.config.target_entropy * largest_entropy(mask, space.sizes))
        return torch.stack(columns, dim=1)

    def draws(self, seen: JointObservation) -> list[Draw]:
        """Every agent's actions, by its present policy."""
        return [self.draw(agent, seen) for agent in range(self.spec.num_agents)]

    def draw(self, agent: int, seen: JointObservation) -> Draw:
        """An agent's actions, by its present policy."""
        distribution: Distribution = self.actors[agent](seen.observations[agent], seen.action_masks[agent])
        return distribution.draw(self.generator)

    @torch.no_grad()
    def choose(self, seen: Sequence[ActorInput], generator: torch.Generator, explore: bool) -> list[Tensor]:
        """Actions drawn by the policies; not exploring, their modes: the most probable choices, tanh of the means."""
        chosen = []
        parts = zip(self.spec.action_spaces, self.acting, observations_of(seen), masks_of(seen), strict=True)
        for space, actor, observation, mask in parts:
            distribution: Distribution = actor(observation, mask)
            actions = distribution.draw(generator).actions if explore else distribution.mode()
            chosen.append(decode(space, actions))
        return chosen


class Temperatures(nn.Module):
    """The agents' temperatures alpha^i, by their logarithms.

    Args:
        num_agents: N.
        initial: of all agents.
    """

    def __init__(self, num_agents: int, initial: float) -> None:
        super().__init__()
        self.logarithms = nn.Parameter(torch.full((num_agents,), math.log(initial)))

    @property
    def values(self) -> Tensor:
        """The temperatures, (N,), without gradients."""
        return self.logarithms.detach().exp()


@dataclass(frozen=True)
class Draw:
    """Actions drawn from a policy.

    Attributes:
        actions: (M, parameters), encoded for the critics; by reparametrisation they depend on the policy.
        log_prob: (M,), densities' of continuous actions in half ranges.
    """

    actions: Tensor
    log_prob: Tensor


class Distribution(ABC):
    """Action distributions at M observations."""

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Draw:
        """A reparametrised action of each."""

    @abstractmethod
    def mode(self) -> Tensor:
        """What each does if it must not be random, encoded for the critics. (M, parameters)."""


class SquashedGaussian(Distribution):
    """Diagonal Gaussians squashed into -1 to 1 by tanh (Haarnoja et al., "Soft actor-critic", 2018, appendix C).

    Args:
        mean, log_std: of the Gaussians, (M, size).
    """

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self._mean, self._log_std = mean, log_std

    def draw(self, generator: torch.Generator) -> Draw:
        """a = tanh(u), log pi(a) = log N(u) - sum log(1 - tanh^2 u): its eq. (21)."""
        noise = torch.randn(self._mean.shape, generator=generator).to(self._mean.device)
        u = self._mean + self._log_std.exp() * noise
        gaussian = -0.5 * noise.square() - self._log_std - 0.5 * math.log(2.0 * math.pi)
        # 1 - tanh^2 u = 4 / (e^u + e^-u)^2, which rounds to 0 where its logarithm is still finite.
        slope = 2.0 * (math.log(2.0) - u - nn.functional.softplus(-2.0 * u))
        return Draw(u.tanh(), (gaussian - slope).sum(1))

    def mode(self) -> Tensor:
        """tanh of the means."""
        return self._mean.tanh()


class Choices(Distribution):
    """Products of categorical distributions, drawn by straight-through Gumbel-softmax.

    Args:
        logits: of the factors, (M, n) each, unavailable choices at `MASKED`.
    """

    def __init__(self, logits: Sequence[Tensor]) -> None:
        self._log_probs = [part.log_softmax(-1) for part in logits]

    def draw(self, generator: torch.Generator) -> Draw:
        """One-hot choices side by side, and the sum of their log probabilities."""
        draws = [gumbel_softmax(part, generator) for part in self._log_probs]
        log_probs = [(draw * part).sum(1) for draw, part in zip(draws, self._log_probs, strict=True)]
        return Draw(torch.cat(draws, dim=1), torch.stack(log_probs).sum(0))

    def mode(self) -> Tensor:
        """The most probable choices."""
        return torch.cat([one_hot(part) for part in self._log_probs], dim=1)


class StochasticPolicy(nn.Module):
    """A stochastic policy pi(a | o): a squashed Gaussian for a `Box`, whose bounds are at -1 and 1, else choices.

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
        outputs = 2 * space.size if isinstance(space, Box) else space.parameters
        self._network = MLP((observation_size, *networks.hidden_sizes, outputs), networks, generator, 0.01)

    def forward(self, observations: Tensor, mask: Tensor | None = None) -> Distribution:
        """The action distributions.

        Args:
            observations: (M, observation size).
            mask: (M, n) booleans, the available choices; None if all are. A `Box` has none.
        """
        outputs: Tensor = self._network(observations)
        if isinstance(self._space, Box):
            mean, log_std = outputs.chunk(2, dim=1)
            return SquashedGaussian(mean, log_std.clamp(*_LOG_STD_RANGE))
        logits = outputs if mask is None else outputs.masked_fill(~mask, MASKED)
        return Choices(torch.split(logits, list(self._space.sizes), dim=1))


def largest_entropy(mask: Tensor, sizes: Sequence[int]) -> Tensor:
    """Largest entropy of choices that a mask allows, log n for each factor, n allowed. (M, sum of sizes) -> (M,)."""
    allowed = [part.sum(1).clamp_min(1) for part in torch.split(mask, list(sizes), dim=1)]
    return torch.stack(allowed).float().log().sum(0)
