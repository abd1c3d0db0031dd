"""Action distributions of a joint policy, in closed form: samples, log probabilities, KL, and the pieces of the
Jacobian and the Fisher matrix that lie between a network's outputs and its log probabilities.

A joint policy's heads that follow one another with equal action spaces form one *block*, handled in one call:
its distribution parameters have shape (batch, heads, size). A Gaussian's log standard deviations do not depend on the
observation: `log_std` has shape (heads, size), and (heads, 0) for a categorical block, which has none. All kinds of
block have the same methods.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

MASKED = -1e10
"""Logit of an action that the action mask rules out: finite, so that 0 * logit stays 0."""

_FEW_ACTIONS, _MANY_SAMPLES = 16, 128
"""Up to so many stored side by side, torch takes samples one by one on most processors: slow from so many on."""


class CategoricalBlock:
    """Categorical distributions over `n` actions each, one per head.

    Args:
        logits: (batch, heads, n), unavailable actions at `MASKED`.
        log_std: (heads, 0).
    """

    def __init__(self, logits: Tensor, log_std: Tensor) -> None:
        self._no_log_std = log_std.detach()
        self.log_probs = _log_softmax(logits)

    @property
    def probs(self) -> Tensor:
        """Probabilities, (batch, heads, n), computed from their logarithms each time: storing both takes much memory.

        For the same reason, the products below are computed in its place.
        """
        return self.log_probs.exp()

    def select(self, rows: Tensor | slice) -> CategoricalBlock:
        """The distributions of some of the samples."""
        some = copy.copy(self)
        some.log_probs = self.log_probs[rows]
        return some

    def sample(self, generator: torch.Generator) -> Tensor:
        """Sample by inverting the cumulative distribution. Shape (batch, heads, 1)."""
        # On the few numbers of a step NumPy takes a fraction of torch's time. Added up in float64, as torch does it.
        probs = self.probs.detach().numpy()
        cumulative = probs.cumsum(-1, dtype=np.float64).astype(probs.dtype)
        # In float64 a draw below 1 times the total stays below the total: no action of probability zero is drawn.
        draws = torch.rand(cumulative.shape[:-1], generator=generator, dtype=torch.float64).numpy()
        threshold = (draws * cumulative[..., -1])[..., np.newaxis]
        return torch.from_numpy((cumulative <= threshold).sum(-1, keepdims=True, dtype=probs.dtype))

    def mode(self) -> Tensor:
        """Most probable actions. Shape (batch, heads, 1)."""
        return self.log_probs.argmax(-1, keepdim=True).to(self.log_probs.dtype)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log probabilities of action indices. Shapes (batch, heads, 1) -> (batch, heads)."""
        return self.log_probs.gather(-1, actions.long()).squeeze(-1)

    def entropy(self) -> Tensor:
        """Entropy of each head. Shape (batch, heads)."""
        return -(self.probs * self.log_probs).sum(-1)

    def kl_to(self, other: CategoricalBlock) -> Tensor:
        """D_KL(self || other) of each head. Shape (batch, heads)."""
        return (self.probs * (self.log_probs - other.log_probs)).sum(-1)

    def total_variation_to(self, other: CategoricalBlock) -> Tensor:
        """Total variation between self and other, for each head. Shape (batch, heads)."""
        return 0.5 * (self.probs - other.probs).abs().sum(-1)

    def score(self, actions: Tensor, tangent: Tensor, log_std_tangent: Tensor) -> Tensor:  # noqa: ARG002
        """Directional derivative of `log_prob(actions)` along a change of the logits. Shape (batch, heads)."""
        return tangent.gather(-1, actions.long()).squeeze(-1) - self.probs.mul_(tangent).sum(-1)

    def score_transpose(self, actions: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Transpose of `score`: (batch, heads) -> cotangents (batch, heads, n) and (heads, 0)."""
        cotangent = self.probs.neg_().mul_(weights.unsqueeze(-1))
        return cotangent.scatter_add_(-1, actions.long(), weights.unsqueeze(-1)), self._no_log_std

    def fisher(self, tangent: Tensor, log_std_tangent: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Fisher matrix of the logits, diag(p) - p p^T, times a tangent: (batch, heads, n) and (heads, 0)."""
        probs = self.probs
        weighted = probs * tangent
        return weighted.sub_(probs.mul_(weighted.sum(-1, keepdim=True))), self._no_log_std


def by_column(outputs: Tensor) -> Tensor:
    """Network outputs, (M, outputs), in column-major storage: a block of them computes on many samples at once."""
    return outputs.T.contiguous().T


def _log_softmax(logits: Tensor) -> Tensor:
    """Logarithm of the softmax over the last dimension, stored as the logits are.

    Of logits stored action by action torch's kernel takes many samples at once; of others it takes one at a time, and
    few actions of many samples are sooner stored anew, both ways.
    """
    by_action = logits.movedim(-1, 0)
    if not logits.is_contiguous() and by_action.is_contiguous():
        return torch.log_softmax(by_action, dim=0).movedim(0, -1)
    if logits.shape[-1] <= _FEW_ACTIONS and by_action[0].numel() >= _MANY_SAMPLES:
        return torch.log_softmax(by_action.contiguous(), dim=0).movedim(0, -1).contiguous()
    return torch.log_softmax(logits, dim=-1)


class FactoredBlock:
    """Products of K independent categorical distributions, one product per head: the factors of a `MultiDiscrete`.

    Args:
        logits: (batch, heads, sum of sizes), the factors' side by side, unavailable choices at `MASKED`.
        log_std: (heads, 0).
        sizes: number of choices of each factor.
    """

    def __init__(self, logits: Tensor, log_std: Tensor, sizes: Sequence[int]) -> None:
        self._sizes = list(sizes)
        self.factors = [CategoricalBlock(part, log_std) for part in torch.split(logits, self._sizes, dim=-1)]

    def select(self, rows: Tensor | slice) -> FactoredBlock:
        """The distributions of some of the samples."""
        some = copy.copy(self)
        some.factors = [factor.select(rows) for factor in self.factors]
        return some

    def sample(self, generator: torch.Generator) -> Tensor:
        """Sample every factor by inversion. Shape (batch, heads, K)."""
        return torch.cat([factor.sample(generator) for factor in self.factors], dim=-1)

    def mode(self) -> Tensor:
        """Most probable actions. Shape (batch, heads, K)."""
        return torch.cat([factor.mode() for factor in self.factors], dim=-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log probabilities of the factors' choices. Shapes (batch, heads, K) -> (batch, heads)."""
        return _sum(factor.log_prob(choices) for factor, choices in self._with(actions))

    def entropy(self) -> Tensor:
        """Entropy of each head. Shape (batch, heads)."""
        return _sum(factor.entropy() for factor in self.factors)

    def kl_to(self, other: FactoredBlock) -> Tensor:
        """D_KL(self || other) of each head. Shape (batch, heads)."""
        return _sum(a.kl_to(b) for a, b in zip(self.factors, other.factors, strict=True))

    def total_variation_to(self, other: FactoredBlock) -> Tensor:
        """A bound on the total variation between self and other: the sum of the factors', at most 1."""
        pairs = zip(self.factors, other.factors, strict=True)
        return _sum(a.total_variation_to(b) for a, b in pairs).clamp(max=1.0)

    def score(self, actions: Tensor, tangent: Tensor, log_std_tangent: Tensor) -> Tensor:
        """Directional derivative of `log_prob(actions)` along a change of the logits. Shape (batch, heads)."""
        tangents = torch.split(tangent, self._sizes, dim=-1)
        parts = zip(self._with(actions), tangents, strict=True)
        return _sum(factor.score(choices, part, log_std_tangent) for (factor, choices), part in parts)

    def score_transpose(self, actions: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Transpose of `score`: (batch, heads) -> cotangents (batch, heads, sum of sizes) and (heads, 0)."""
        return _side_by_side([factor.score_transpose(choices, weights) for factor, choices in self._with(actions)])

    def fisher(self, tangent: Tensor, log_std_tangent: Tensor) -> tuple[Tensor, Tensor]:
        """Fisher matrix of the logits, block-diagonal over factors, times a tangent; shapes as of `score_transpose`."""
        parts = zip(self.factors, torch.split(tangent, self._sizes, dim=-1), strict=True)
        return _side_by_side([factor.fisher(part, log_std_tangent) for factor, part in parts])

    def _with(self, actions: Tensor) -> Iterator[tuple[CategoricalBlock, Tensor]]:
        return zip(self.factors, torch.split(actions, 1, dim=-1), strict=True)


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, parts)


def _side_by_side(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([cotangent for cotangent, _ in parts], dim=-1), parts[0][1]


class GaussianBlock:
    """Diagonal Gaussians of `size` components, one per head; log_std does not depend on the observation.

    Args:
        mean: (batch, heads, size).
        log_std: (heads, size).
    """

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean = mean
        # A copy: an old policy's distributions are kept while its parameters are changed in place.
        self.log_std = log_std.clone()
        self.precision = torch.exp(-2.0 * log_std)

    def select(self, rows: Tensor | slice) -> GaussianBlock:
        """The distributions of some of the samples."""
        return GaussianBlock(self.mean[rows], self.log_std)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Sample actions. Shape (batch, heads, size)."""
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype)
        return self.mean + noise * self.log_std.exp()

    def mode(self) -> Tensor:
        """The means. Shape (batch, heads, size)."""
        return self.mean

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log densities. Shapes (batch, heads, size) -> (batch, heads)."""
        squares = (actions - self.mean).square() * self.precision
        return -(0.5 * squares + self.log_std + 0.5 * math.log(2.0 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy of each head. Shape (batch, heads)."""
        value = (self.log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)
        return value.expand(self.mean.shape[:-1])

    def kl_to(self, other: GaussianBlock) -> Tensor:
        """D_KL(self || other) of each head. Shape (batch, heads)."""
        variance_ratio = torch.exp(2.0 * (self.log_std - other.log_std))
        distance = (self.mean - other.mean).square() * other.precision
        return (0.5 * (variance_ratio + distance - 1.0) + other.log_std - self.log_std).sum(-1)

    def total_variation_to(self, other: GaussianBlock) -> Tensor:
        """A bound on the total variation between self and other, Pinsker's sqrt(KL / 2), at most 1.

        There is no closed form; for small moves of the mean alone, the bound is 1.25 times the total variation.
        """
        return (0.5 * self.kl_to(other)).clamp(0.0, 1.0).sqrt()

    def score(self, actions: Tensor, tangent: Tensor, log_std_tangent: Tensor) -> Tensor:
        """Directional derivative of `log_prob(actions)` along a change of means and log_std. Shape (batch, heads)."""
        whitened = (actions - self.mean) * self.precision
        squares = (actions - self.mean) * whitened
        return (whitened * tangent + (squares - 1.0) * log_std_tangent).sum(-1)

    def score_transpose(self, actions: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Transpose of `score`: cotangents of the means (batch, heads, size) and of log_std (heads, size)."""
        whitened = (actions - self.mean) * self.precision
        squares = (actions - self.mean) * whitened
        weights = weights.unsqueeze(-1)
        return whitened * weights, ((squares - 1.0) * weights).sum(0)

    def fisher(self, tangent: Tensor, log_std_tangent: Tensor) -> tuple[Tensor, Tensor]:
        """Fisher matrix of means and log_std times a tangent, the latter summed over the batch."""
        return tangent * self.precision, 2.0 * self.mean.shape[0] * log_std_tangent


Block = CategoricalBlock | FactoredBlock | GaussianBlock


class Head(Protocol):
    """Interface of an acting agent's action distribution at a batch of observations: one head, or all taken as one."""

    def select(self, rows: Tensor) -> Head:
        """The distributions of some of the samples."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """Sample actions. Shape (batch, 1, width)."""

    def mode(self) -> Tensor:
        """Most probable actions. Shape (batch, 1, width)."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log probabilities. Shapes (batch, 1, width) -> (batch, 1)."""

    def entropy(self) -> Tensor:
        """Entropy. Shape (batch, 1)."""

    def kl_to(self, other: Any) -> Tensor:
        """D_KL(self || other), of the same kind. Shape (batch, 1)."""

    def total_variation_to(self, other: Any) -> Tensor:
        """Total variation, or a bound on it, between self and another of the same kind. Shape (batch, 1)."""
