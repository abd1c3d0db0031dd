"""An agent's critic V^q(o^q): a network that predicts values normalised by running mean and variance (Pop-Art)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from matrpo.networks.backpropagation import forward_pass
from matrpo.networks.device import CPU
from matrpo.networks.gru import make_network
from matrpo.networks.optimizer import make_adam, step_along
from matrpo.networks.sequences import Sequences, minibatches, subset
from matrpo.settings.sections import CriticSettings, NetworkSettings


@dataclass(frozen=True)
class ValueLoss:
    """Loss of a critic's regression, in normalised values: squared or Huber error, optionally clipped as in PPO.

    Attributes:
        huber_delta: threshold of the Huber loss, beyond which errors count linearly; None: squared errors.
        clip: PPO's value clipping: values that have moved further than this do not improve the loss (the larger of
            both losses counts); None: they may move anywhere.
        max_grad_norm: gradient clipping: a longer gradient is shortened to this; None: never.
    """

    huber_delta: float | None = None
    clip: float | None = None
    max_grad_norm: float | None = None

    def __call__(self, values: Tensor, before: Tensor | None, targets: Tensor) -> Tensor:
        """Mean loss of values; `before`, the values before the fit, is needed with `clip` alone."""
        if self.clip is None:
            return self._of(values, targets, "mean")
        assert before is not None
        held = before + (values - before).clamp(-self.clip, self.clip)
        return torch.maximum(self._of(values, targets, "none"), self._of(held, targets, "none")).mean()

    def gradient(self, values: Tensor, before: Tensor | None, targets: Tensor) -> Tensor:
        """Gradient of the mean loss with respect to the values, of their shape."""
        errors = values - targets
        slopes = 2 * errors if self.huber_delta is None else errors.clamp(-self.huber_delta, self.huber_delta)
        if self.clip is not None:
            assert before is not None
            change = values - before
            held = before + change.clamp(-self.clip, self.clip)
            counted = (change.abs() <= self.clip) | (errors.abs() >= (held - targets).abs())
            slopes = slopes * counted
        return slopes / values.numel()

    def _of(self, values: Tensor, targets: Tensor, reduction: str) -> Tensor:
        if self.huber_delta is None:
            return nn.functional.mse_loss(values, targets, reduction=reduction)
        return nn.functional.huber_loss(values, targets, reduction=reduction, delta=self.huber_delta)


class Critic(nn.Module):
    """Value network on the agent's own observation, trained on returns of its own rewards.

    The network predicts values of zero mean and unit variance. When the running mean and variance of the targets
    change, the last layer is rescaled so that the values do not (van Hasselt et al., Pop-Art): the optimiser never has
    to follow the targets' scale.

    Args:
        input_size: length of an observation.
        networks: architecture.
        critic: learning rate and loss.
        generator: source of the initial weights and of the order of samples.
        device: where it learns.
    """

    forgetting = 0.2
    """Weight of the newest batch of targets in the running mean and variance, once there are more than a few."""

    def __init__(
        self,
        input_size: int,
        networks: NetworkSettings,
        critic: CriticSettings,
        generator: torch.Generator,
        device: torch.device = CPU,
    ) -> None:
        super().__init__()
        self._generator = generator
        self._value_loss = ValueLoss(critic.huber_delta, critic.value_clip, critic.max_grad_norm)
        self.network = make_network(input_size, 1, networks, generator)
        self.mean: Tensor
        self.square: Tensor
        self.batches: Tensor
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("square", torch.ones((), dtype=torch.float64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.to(device)
        self.optimizer = make_adam(self.parameters(), lr=critic.critic_lr)

    @property
    def std(self) -> float:
        """Running standard deviation of the targets."""
        return math.sqrt(max(float(self.square - self.mean**2), 1e-8))

    def initial_state(self, num_envs: int) -> Tensor:
        """Initial recurrent state, (num_envs, size), all zeros; of size 0 if the critic is feedforward."""
        return torch.zeros(num_envs, self.network.state_size, device=self.mean.device)

    @torch.no_grad()
    def values(self, observations: Tensor, starts: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Values V(o) of T successive observations in B environments, in the rewards' units.

        Args:
            observations: (T, B, observation size).
            starts: (T, B) booleans, first observations of an episode.
            state: (B, size), the recurrent state before the first.

        Returns:
            The values, (T, B), and the recurrent state before each observation and after the last, (T + 1, B, size).
        """
        normalised, states = self.network.unroll(observations, starts, state)
        return normalised.squeeze(-1) * self.std + float(self.mean), states

    @torch.no_grad()
    def renormalise(self, mean: Tensor, square: Tensor) -> None:
        """Replace the running mean and mean square, () each, and rescale the last layer so that values stay."""
        old_mean, old_std = float(self.mean), self.std
        self.mean, self.square = mean, square
        last = self.network.output_layer
        last.weight.mul_(old_std / self.std)
        last.bias.copy_((old_std * last.bias + old_mean - float(self.mean)) / self.std)

    @torch.no_grad()
    def fit(
        self, observations: Tensor, targets: Tensor, epochs: int, batch_size: int, sequences: Sequences | None = None
    ) -> float:
        """Regress the values on targets (returns) of M samples by minibatch Adam.

        Args:
            observations: (M, observation size).
            targets: (M,), in the rewards' units.
            epochs: passes over the samples.
            batch_size: samples of a minibatch; see `sequences.minibatches`.
            sequences: how the observations follow one another, for a recurrent critic.

        Returns:
            Mean loss of the last epoch; for squared errors, 1 is no better than the mean.
        """
        self._track(targets)
        normalised = ((targets - float(self.mean)) / self.std).unsqueeze(-1)
        before = None
        losses: list[Tensor] = []
        for epoch in range(epochs):
            for rows, part in minibatches(len(targets), batch_size, self._generator, sequences, targets.device):
                values = forward_pass(self.network, subset(observations, rows), part)
                if before is None and self._value_loss.clip is not None:
                    before = values.outputs if rows is None else self._normalised(observations, sequences)
                fitted = values.outputs, None if before is None else subset(before, rows), subset(normalised, rows)
                if epoch == epochs - 1:
                    losses.append(self._value_loss(*fitted))
                gradients = values.gradients(self._value_loss.gradient(*fitted))
                step_along(self.optimizer, gradients, self._value_loss.max_grad_norm)
        return sum(map(float, losses)) / len(losses)

    @torch.no_grad()
    def _normalised(self, observations: Tensor, sequences: Sequences | None) -> Tensor:
        values: Tensor = self.network(observations, sequences)
        return values

    @torch.no_grad()
    def _track(self, targets: Tensor) -> None:
        """Update the running mean and variance; after the first update, rescale the last layer to keep predictions."""
        self.batches += 1
        weight = max(self.forgetting, 1.0 / int(self.batches))
        targets = targets.double()
        mean = self.mean + weight * (targets.mean() - self.mean)
        square = self.square + weight * (targets.square().mean() - self.square)
        if int(self.batches) == 1:
            self.mean, self.square = mean, square
        else:
            self.renormalise(mean, square)
