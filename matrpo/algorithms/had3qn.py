"""HAD3QN: heterogeneous-agent dueling double deep Q-networks (Zhong et al., Appendix I, Algorithm 8); M: minibatch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from matrpo.algorithms.shared.replay import Batch
from matrpo.algorithms.shared.value_based import ValueBased, number
from matrpo.errors import ConfigError
from matrpo.networks.mlp import MLP
from matrpo.networks.optimizer import make_adam
from matrpo.networks.sequences import Sequences
from matrpo.settings.config import Config
from matrpo.settings.sections import NetworkSettings
from matrpo.spaces import TaskSpec

_MOST_JOINT_ACTIONS = 20_000


class HAD3QN(ValueBased):
    """A central Q-network of joint actions, maximised by one agent after another, and a Q-network of each agent.

    The critic has one output for each joint action: their number is the product of the agents'.
    """

    settings_read = ValueBased.settings_read | {"actor_lr", "agent_order", "dueling", "dueling_sizes"}

    def __init__(self, spec: TaskSpec, state_sizes: tuple[int, ...], config: Config) -> None:
        if config.share_parameters:
            raise ConfigError("had3qn: every agent has a network of its own: leave share_parameters out")
        if not config.hidden_sizes:
            raise ConfigError("had3qn: values and advantages have hidden layers in common: set hidden_sizes")
        super().__init__(spec, state_sizes, config)
        count = math.prod(self.num_actions)
        if count > _MOST_JOINT_ACTIONS:
            raise ConfigError(
                f"had3qn cannot handle {spec.name}: its critic has one output for each of {count} joint actions, "
                f"expected at most {_MOST_JOINT_ACTIONS}"
            )
        sizes = zip(spec.observation_sizes, self.num_actions, strict=True)
        self.actors = [QNetwork(*pair, config, self.generator).to(self.device) for pair in sizes]
        self.target_actors = [self.make_target(f"policy.{q}", actor) for q, actor in enumerate(self.actors)]
        self.critic = QNetwork(state_sizes[0], count, config, self.generator).to(self.device)
        self.critics["critic"] = self.critic
        self.target_critic = self.make_target("critic", self.critic)
        self.optimizers["critic"] = make_adam(self.critic.parameters(), lr=config.critic_lr)
        for q, actor in enumerate(self.actors):
            self.optimizers[f"policy.{q}"] = make_adam(actor.parameters(), lr=config.actor_lr)

    def utilities(self, networks: Sequence[nn.Module], observations: Sequence[Tensor]) -> list[Tensor]:
        return [network(seen) for network, seen in zip(networks, observations, strict=True)]

    def learn(self, batch: Batch) -> dict[str, float]:
        """Update the critic, the agents' networks in a random order, the target networks: one pass of Algorithm 8."""
        taken = self.indices(batch.actions)
        values = self.critic(batch.now.state).gather(1, self.joint(taken)).squeeze(1)
        loss = self.loss(values, None, self.targets(batch))
        self.descend("critic", loss)
        with torch.no_grad():
            joint_values = self.critic(batch.now.state).unflatten(1, self.num_actions)
        self.improve(batch, taken, joint_values)
        self.move_targets()
        return {"critic_loss": float(loss.detach()), "value_mean": float(values.detach().mean())}

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """n-step targets y = R + gamma^n Q^(s', a_*), Q^: target critic, a_* by the agents' target networks. (M,)."""
        later = batch.later
        pairs = zip(self.utilities(self.target_actors, later.observations), later.action_masks, strict=True)
        best = self.joint([self.greedy(agent, *pair) for agent, pair in enumerate(pairs)])
        values: Tensor = self.target_critic(later.state)
        return batch.rewards + batch.discounts * values.gather(1, best).squeeze(1)

    def improve(self, batch: Batch, taken: list[Tensor], joint_values: Tensor) -> None:
        """Regress agent i_m's Q^{i_m}(o, a) on the critic's Q(s, a_*^{i_1:m-1}, a); a_*^{i_m} maximises the latter.

        Args:
            batch: the transitions.
            taken: each agent's action, (M, 1).
            joint_values: the critic's values, (M, n_1, ..., n_N).
        """
        actions = list(taken)
        for agent in self.update_order():
            own_values = _values_of(joint_values, actions, agent)
            target = own_values.gather(1, taken[agent]).squeeze(1)
            values = self.actors[agent](batch.now.observations[agent]).gather(1, taken[agent]).squeeze(1)
            alive = batch.now.alive[:, agent]
            self.descend(f"policy.{agent}", ((values - target).square() * alive).sum() / alive.sum().clamp_min(1))
            actions[agent] = self.greedy(agent, own_values, batch.now.action_masks[agent])

    def joint(self, actions: Sequence[Tensor]) -> Tensor:
        """The critic's output index of joint actions, (M, 1); the last agent's action, (M, 1), changes fastest."""
        return number(torch.cat(list(actions), dim=1), self.num_actions)


def _values_of(joint_values: Tensor, actions: Sequence[Tensor], agent: int) -> Tensor:
    """Q-values of one agent's actions, the others' fixed. (M, n_1, ..., n_N) -> (M, n_agent)."""
    rows = torch.arange(len(joint_values), device=joint_values.device).unsqueeze(1)
    own = torch.arange(joint_values.shape[1 + agent], device=joint_values.device).unsqueeze(0)
    return joint_values[rows, *(own if q == agent else action for q, action in enumerate(actions))]


class QNetwork(nn.Module):
    """A Q-network: dueling, Q(x, a) = V(x) + A(x, a) - mean_a A(x, a) (Wang et al., 2016, eq. (9)), or with one head.

    Without the value's head it is the network of HADQN, which the paper compares with (Zhong et al., Figure 14).

    Args:
        input_size: length of x.
        num_actions: how many.
        config: the run's settings.
        generator: source of the initial weights.
    """

    def __init__(self, input_size: int, num_actions: int, config: Config, generator: torch.Generator) -> None:
        super().__init__()
        *hidden, features = config.hidden_sizes
        sizes = (input_size, *hidden, features)
        head = NetworkSettings(activation="relu")
        self._base = MLP(sizes, config, generator, math.sqrt(2.0))
        self._value = _Head((features, *config.dueling_sizes, 1), head, generator) if config.dueling else None
        self._advantage = _Head((features, *config.dueling_sizes, num_actions), head, generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Shapes (M, input size) -> (M, num_actions)."""
        features = self._base.hidden(self._base(inputs))
        advantages: Tensor = self._advantage(features)
        if self._value is None:
            return advantages
        values: Tensor = self._value(features)
        return values + advantages - advantages.mean(-1, keepdim=True)


class _Head(MLP):
    """An output MLP with Hardswish between its layers (HARL, Table 5)."""

    def forward(self, inputs: Tensor, sequences: Sequences | None = None) -> Tensor:  # noqa: ARG002
        *hidden, last = self.linear_layers
        for layer in hidden:
            inputs = nn.functional.hardswish(layer(inputs))
        output: Tensor = last(inputs)
        return output
