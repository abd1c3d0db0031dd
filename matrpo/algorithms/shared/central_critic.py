"""Policies that ascend centralised critics Q(s, a): the base of DDPG, TD3 and SAC. M: minibatch, S: state size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from matrpo.algorithms.shared.off_policy import OffPolicy
from matrpo.algorithms.shared.replay import Batch
from matrpo.errors import ConfigError
from matrpo.networks.mlp import MLP
from matrpo.networks.optimizer import make_adam
from matrpo.settings.config import Config
from matrpo.spaces import ActionSpace, Box, TaskSpec


class CentralCritic(OffPolicy):
    """Critics of states and joint actions regress on TD targets; agents have policies of their own, which ascend them.

    The reward is the team's: the critics of MADDPG's N agents would have the same targets, so one is enough.

    Attributes:
        num_critics: how many critics learn; the least of their targets counts.
    """

    num_critics = 1
    settings_read = OffPolicy.settings_read | {"actor_lr"}

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
        pairs = zip(spec.observation_sizes, spec.action_spaces, strict=True)
        self.actors = [self.make_policy(*pair).to(self.device) for pair in pairs]
        sizes = (state_sizes[0] + sum(space.parameters for space in spec.action_spaces), *config.hidden_sizes, 1)
        self.value_networks = [MLP(sizes, config, self.generator).to(self.device) for _ in range(self.num_critics)]
        self.critics |= {f"critic.{j}": network for j, network in enumerate(self.value_networks)}
        self.target_values = [self.make_target(f"critic.{j}", network) for j, network in enumerate(self.value_networks)]
        parameters = [parameter for network in self.value_networks for parameter in network.parameters()]
        self.optimizers["critic"] = make_adam(parameters, lr=config.critic_lr)
        for q, actor in enumerate(self.actors):
            self.optimizers[f"policy.{q}"] = make_adam(actor.parameters(), lr=config.actor_lr)

    @abstractmethod
    def make_policy(self, observation_size: int, space: ActionSpace) -> nn.Module:
        """An agent's policy, with initial weights drawn by `generator`."""

    @abstractmethod
    def targets(self, batch: Batch) -> Tensor:
        """The critics' regression targets, (M,), without gradients."""

    def fit(self, batch: Batch) -> dict[str, float]:
        """One gradient step of all critics towards their targets; the metrics to report."""
        targets, actions = self.targets(batch), self.encoded(batch)
        values = [q_values(critic, batch.now.state, actions) for critic in self.value_networks]
        losses = [self.loss(value, None, targets) for value in values]
        self.descend("critic", torch.stack(losses).sum())
        return {"critic_loss": float(losses[0].detach()), "value_mean": float(values[0].detach().mean())}

    def in_turn(self, old: Sequence[Tensor], draw: Callable[[int], Tensor]) -> Iterator[tuple[int, list[Tensor]]]:
        """Agents i_1 to i_n in the order of their updates, each with the joint action to update it at: HARL, eq. (14).

        Its own part is a_old^{i_m}, with gradients, those of agents before it a_new^{i_1:m-1}, others' a_old.

        Args:
            old: each agent's encoded actions by the policies before the update, with gradients, (M, parameters).
            draw: an agent's actions by its present policy.
        """
        actions = [each.detach() for each in old]
        for agent in self.update_order():
            actions[agent] = old[agent]
            yield agent, actions
            with torch.no_grad():
                actions[agent] = draw(agent)

    def maximise(self, agent: int, batch: Batch, objective: Tensor) -> None:
        """One gradient step of an agent's policy up the mean of an objective, (M,), where it is alive."""
        alive = batch.now.alive[:, agent]
        self.descend(f"policy.{agent}", -(objective * alive).sum() / alive.sum().clamp_min(1))

    def encoded(self, batch: Batch) -> list[Tensor]:
        """Every agent's action in the batch, encoded for the critics."""
        parts = zip(self.spec.action_slices, self.spec.action_spaces, strict=True)
        return [encode(space, batch.actions[:, part]) for part, space in parts]


def encode(space: ActionSpace, actions: Tensor) -> Tensor:
    """Actions encoded for the critics: one-hot choices side by side if discrete. (M, width) -> (M, parameters)."""
    if isinstance(space, Box):
        return actions
    choices = zip(actions.long().unbind(1), space.sizes, strict=True)
    return torch.cat([nn.functional.one_hot(chosen, n) for chosen, n in choices], dim=1).float()


def decode(space: ActionSpace, encoded: Tensor) -> Tensor:
    """The actions that were encoded, the inverse of `encode`. (M, parameters) -> (M, width)."""
    if isinstance(space, Box):
        return encoded
    choices = torch.split(encoded, list(space.sizes), dim=1)
    return torch.cat([choice.argmax(-1, keepdim=True) for choice in choices], dim=1).float()


def q_values(critic: nn.Module, states: Tensor, actions: Sequence[Tensor]) -> Tensor:
    """Q(s, a), (M,), of states, (M, S), and each agent's encoded actions."""
    values: Tensor = critic(torch.cat([states, *actions], dim=1))
    return values.squeeze(1)


def least_q_values(critics: Sequence[nn.Module], states: Tensor, actions: Sequence[Tensor]) -> Tensor:
    """min_j Q_j(s, a), (M,): clipped double Q-learning (Fujimoto et al., 2018, section 4.2)."""
    return torch.stack([q_values(critic, states, actions) for critic in critics]).amin(0)


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
