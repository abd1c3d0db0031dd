"""A joint policy linearised at its samples: Jacobian and Fisher-vector products of the local step, eqs. (22), (46)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.mlp import flat_parameters
from matrpo.networks.sequences import Sequences

CHUNK = 2048 * 128
"""Chunk size, in numbers of the widest layer linearised at a time: a chunk's layers stay in the processor's cache."""

DEVICE_CHUNK = 1 << 26
"""The same on other devices than the processor, which like few large operations: 256 MiB a layer."""

FEWEST = 64
"""Samples of a chunk at least: each chunk takes a pass over all parameters, which a layer of images has more of."""


class LinearizedPolicy:
    """A joint policy at fixed parameters, observations and joint actions, with its first and second order model.

    For M samples and D parameters: J^{qn} (M x D), the Jacobian of log pi^q(a^n | o^q), and the Hessian of the mean
    KL over all heads, which at the point of linearisation is the Fisher matrix J_out^T F J_out / M of the network's
    outputs (the sum in eq. (46) with its expectation over actions taken exactly). Neither is ever formed.

    Attributes:
        parameters: the policy's parameters as one vector, (D,).
        distribution: its action distributions at the samples, which do not follow later changes of the parameters.
        fisher_products, jacobian_products: how many products were computed, for the metrics.
    """

    def __init__(
        self,
        policy: JointPolicy,
        observations: Tensor,
        joint_action: Tensor,
        action_mask: Tensor | None = None,
        sequences: Sequences | None = None,
    ) -> None:
        self.parameters = flat_parameters(list(policy.parameters()))
        self.num_samples = len(observations)
        self.num_agents = sum(group.count for group in policy.groups)
        self.fisher_products = 0
        self.jacobian_products = 0
        self._groups = policy.groups
        self._factors: list[tuple[Tensor, Tensor]] | None = None
        last = policy.network.output_layer
        chunk = CHUNK if observations.is_cpu else DEVICE_CHUNK
        limit = max(FEWEST, chunk // max(observations.shape[1], last.in_features, last.out_features))
        fixed = copy.deepcopy(policy.network)  # the policy itself may move while this is in use
        pieces = fixed.linearize(observations, limit, sequences)
        with torch.no_grad():
            outputs = torch.cat([network.outputs for _, network in pieces])
            self.distribution = policy.distribution_of(outputs, action_mask)
        self._chunks = []
        for rows, network in pieces:
            del network.outputs  # The distribution holds what is needed of them.
            self._chunks.append((rows, network, self.distribution.select(rows), joint_action[rows]))

    def jvp(self, direction: Tensor) -> Tensor:
        """Jacobian-vector products J^{qn} x for every n: the linearised log ratios. Shapes (D,) -> (N, M)."""
        self.jacobian_products += 1
        of_network, log_std = self._split(direction)
        scores = [part.score(actions, network.jvp(of_network), log_std) for _, network, part, actions in self._chunks]
        return torch.cat(scores).T.contiguous()

    def vjp(self, weights: Tensor) -> Tensor:
        """Vector-Jacobian product (1/M) sum_n J^{qn T} w^n, the gradient V of eq. (22) for w. Shapes (N, M) -> (D,)."""
        self.jacobian_products += 1
        total = torch.zeros_like(self.parameters)
        for rows, network, distribution, actions in self._chunks:
            outputs, log_std = distribution.score_transpose(actions, weights[:, rows].T)
            total += torch.cat([network.vjp(outputs), log_std])
        return total / self.num_samples

    def fisher(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Fisher-vector product H p (without damping), and J^{qn} p as a by-product. Shapes (D,) -> (D,), (N, M)."""
        self.fisher_products += 1
        change = self._split(direction)
        total = torch.zeros_like(self.parameters)
        scores = []
        for _, network, distribution, actions in self._chunks:
            tangent = network.jvp(change[0])
            scores.append(distribution.score(actions, tangent, change[1]))
            outputs, log_std = distribution.fisher(tangent, change[1])
            total += torch.cat([network.vjp(outputs), log_std])
        return total / self.num_samples, torch.cat(scores).T.contiguous()

    def kronecker_factors(self) -> list[tuple[Tensor, Tensor]]:
        """Kronecker factors (A, G) of each layer's block of the Fisher matrix, about A (x) G; see `preconditioner`.

        Expectations over actions are estimated from the observed actions; heads, and factors of one, are independent in
        the last layer. Computed once.
        """
        if self._factors is None:
            self._factors = self._estimated_factors()
        return self._factors

    def _estimated_factors(self) -> list[tuple[Tensor, Tensor]]:
        self.jacobian_products += 1
        sums: list[tuple[Tensor, Tensor]] = []
        for _, network, distribution, actions in self._chunks:
            scores, _ = distribution.score_transpose(actions, actions.new_ones(len(actions), self.num_agents))
            factors = network.kronecker_factors(scores)
            sums = [(a + c, g + h) for (a, g), (c, h) in zip(sums, factors, strict=True)] if sums else factors
        sizes = torch.tensor([size for group in self._groups for size in group.independent * group.count])
        parts = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        within_parts = (parts.unsqueeze(1) == parts).to(self.parameters.device)
        means = [(a / self.num_samples, g / self.num_samples) for a, g in sums]
        means[-1] = (means[-1][0], means[-1][1] * within_parts)
        return means

    def _split(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        """The network's part of a direction, and that of the log standard deviations."""
        size = self._chunks[0][1].num_parameters
        return direction[:size], direction[size:]
