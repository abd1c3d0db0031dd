"""QMIX: monotonic value function factorisation (Rashid et al., ICML 2018), with double Q-learning; M: minibatch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from matrpo.algorithms.shared.replay import Batch, JointObservation
from matrpo.algorithms.shared.value_based import ValueBased
from matrpo.errors import ConfigError
from matrpo.networks.mlp import MLP
from matrpo.networks.optimizer import make_adam
from matrpo.settings.config import Config
from matrpo.settings.sections import NetworkSettings
from matrpo.spaces import TaskSpec


class QMIX(ValueBased):
    """Agents' utilities (action values) mixed monotonically into Q_tot: greedy actions of each maximise Q_tot.

    With `share_parameters` one network, given the agent's index as a one-hot vector, computes every agent's utilities;
    with `agent_id` the index is in the observation already.
    """

    settings_read = ValueBased.settings_read | {"share_parameters", "agent_id", "mixer_size"}

    def __init__(self, spec: TaskSpec, state_sizes: tuple[int, ...], config: Config) -> None:
        super().__init__(spec, state_sizes, config)
        if config.agent_id and not config.share_parameters:
            raise ConfigError("agent_id: every agent has a network of its own: set share_parameters, or leave it out")
        if config.share_parameters and len(set(zip(spec.observation_sizes, self.num_actions, strict=True))) > 1:
            raise ConfigError(
                f"share_parameters: the agents of {spec.name} differ in what they see or do: set agent_id"
            )
        networks = self._make_networks()
        copies = spec.num_agents // len(networks)
        self.actors = networks * copies
        self.target_actors = [self.make_target(f"policy.{q}", network) for q, network in enumerate(networks)] * copies
        self.mixer = Mixer(spec.num_agents, state_sizes[0], config, self.generator).to(self.device)
        self.critics["mixer"] = self.mixer
        self.target_mixer = self.make_target("mixer", self.mixer)
        parameters = [parameter for network in (*networks, self.mixer) for parameter in network.parameters()]
        self.optimizers["critic"] = make_adam(parameters, lr=config.critic_lr, eps=1e-5)

    def utilities(self, networks: Sequence[nn.Module], observations: Sequence[Tensor]) -> list[Tensor]:
        if not self.config.share_parameters or self.config.agent_id:
            return [network(seen) for network, seen in zip(networks, observations, strict=True)]
        whose = torch.eye(len(observations), device=observations[0].device).expand(len(observations[0]), -1, -1)
        values: Tensor = networks[0](torch.cat([torch.stack(list(observations), dim=1), whose], dim=2))
        return list(values.unbind(1))

    def learn(self, batch: Batch) -> dict[str, float]:
        """One step on the TD loss (y - Q_tot(s, a))^2, eqs. (6) and (7)."""
        utilities = self.utilities(self.actors, batch.now.observations)
        joint = self._mixed(self.mixer, batch.now, utilities, self.indices(batch.actions))
        loss = self.loss(joint, None, self.targets(batch))
        self.descend("critic", loss)
        self.move_targets()
        values = {"critic_loss": float(loss.detach()), "value_mean": float(joint.detach().mean())}
        return values | {"epsilon": self.epsilon}

    @torch.no_grad()
    def targets(self, batch: Batch) -> Tensor:
        """Double Q-learning targets y = R + gamma^n Q_tot^(s', a_*): networks choose a_*, targets value it. (M,)."""
        later = batch.later
        pairs = zip(self.utilities(self.actors, later.observations), later.action_masks, strict=True)
        best = [self.greedy(agent, *pair) for agent, pair in enumerate(pairs)]
        utilities = self.utilities(self.target_actors, later.observations)
        return batch.rewards + batch.discounts * self._mixed(self.target_mixer, later, utilities, best)

    def _mixed(
        self, mixer: nn.Module, seen: JointObservation, utilities: list[Tensor], actions: list[Tensor]
    ) -> Tensor:
        """Q_tot of joint actions, (M,). Agents that are not there or cannot act have utilities of 0."""
        chosen = [values.gather(1, action) for values, action in zip(utilities, actions, strict=True)]
        joint: Tensor = mixer(torch.cat(chosen, dim=1) * seen.alive, seen.state)
        return joint

    def _make_networks(self) -> list[nn.Module]:
        """A utility network for each agent, or a shared one with the agent's one-hot index as additional input."""
        config, shared = self.config, self.config.share_parameters
        ids = len(self.spec.agents) if shared and not config.agent_id else 0
        sizes = list(zip(self.spec.observation_sizes, self.num_actions, strict=True))
        return [
            MLP((observation_size + ids, *config.hidden_sizes, count), config, self.generator, 0.01).to(self.device)
            for observation_size, count in (sizes[:1] if shared else sizes)
        ]


class Mixer(nn.Module):
    """The mixing network, `Q_tot = |W_2(s)| elu(|W_1(s)| q + b_1(s)) + V(s)`: section 4.1 and its Figure 2.

    Hypernetworks of one linear layer make the weights and the first bias of the state, one with a hidden layer the
    last bias. Weights that are not negative make Q_tot monotonic in every utility: eq. (5).

    Args:
        num_agents: N.
        state_size: S.
        config: the run's settings.
        generator: source of the initial weights.
    """

    def __init__(self, num_agents: int, state_size: int, config: Config, generator: torch.Generator) -> None:
        super().__init__()
        size = config.mixer_size
        networks = NetworkSettings(activation="relu", feature_normalization=config.feature_normalization)
        self._shape = (num_agents, size)
        self._first_weights = MLP((state_size, num_agents * size), networks, generator)
        self._first_bias = MLP((state_size, size), networks, generator)
        # By the gain, the joint value is at first of its utilities' size and not `size` times theirs.
        self._last_weights = MLP((state_size, size), networks, generator, 1.0 / size)
        self._last_bias = MLP((state_size, size, 1), networks, generator)

    def forward(self, utilities: Tensor, states: Tensor) -> Tensor:
        """Shapes (M, N), (M, S) -> (M,)."""
        first_weights = self._first_weights(states).abs().unflatten(1, self._shape)
        mixed = torch.einsum("mn,mnh->mh", utilities, first_weights) + self._first_bias(states)
        hidden = nn.functional.elu(mixed)
        joint: Tensor = (hidden * self._last_weights(states).abs()).sum(1) + self._last_bias(states).squeeze(1)
        return joint
