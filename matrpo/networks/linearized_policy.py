"""A joint policy linearised at its samples: Jacobian and Fisher-vector products of the local step, eqs. (22), (46)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from matrpo.networks.gru import LinearizedNetwork
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
        self._chunks = []
        last = policy.network.output_layer
        chunk = CHUNK if observations.is_cpu else DEVICE_CHUNK
        limit = max(FEWEST, chunk // max(observations.shape[1], last.in_features, last.out_features))
        for rows, network in policy.network.linearize(observations, limit, sequences):
            mask = None if action_mask is None else action_mask[rows]
            with torch.no_grad():
                distribution = policy.distribution_of(network.outputs, mask)
            del network.outputs  # The distribution holds what is needed of them.
            actions = [group.split_actions(joint_action[rows]) for group in policy.groups]
            self._chunks.append((rows, network, distribution.blocks, actions))

    def jvp(self, direction: Tensor) -> Tensor:
        """Jacobian-vector products J^{qn} x for every n: the linearised log ratios. Shapes (D,) -> (N, M)."""
        self.jacobian_products += 1
        network_part, log_std_parts = self._split(direction)
        scores = []
        for _, network, blocks, actions in self._chunks:
            tangents = self._split_outputs(network.jvp(network_part))
            parts = zip(blocks, actions, tangents, log_std_parts, strict=True)
            scores.append(torch.cat([b.score(a, t, f) for b, a, t, f in parts], dim=1))
        return torch.cat(scores).T.contiguous()

    def vjp(self, weights: Tensor) -> Tensor:
        """Vector-Jacobian product (1/M) sum_n J^{qn T} w^n, the gradient V of eq. (22) for w. Shapes (N, M) -> (D,)."""
        self.jacobian_products += 1
        total = torch.zeros_like(self.parameters)
        for rows, network, blocks, actions in self._chunks:
            pairs = []
            for group, block, action in zip(self._groups, blocks, actions, strict=True):
                heads = slice(group.first, group.first + group.count)
                pairs.append(block.score_transpose(action, weights[heads, rows].T))
            total += self._pull_back(network, pairs)
        return total / self.num_samples

    def fisher(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Fisher-vector product H p (without damping), and J^{qn} p as a by-product. Shapes (D,) -> (D,), (N, M)."""
        self.fisher_products += 1
        network_part, log_std_parts = self._split(direction)
        total = torch.zeros_like(self.parameters)
        scores = []
        for _, network, blocks, actions in self._chunks:
            tangents = self._split_outputs(network.jvp(network_part))
            parts = list(zip(blocks, actions, tangents, log_std_parts, strict=True))
            scores.append(torch.cat([b.score(a, t, f) for b, a, t, f in parts], dim=1))
            total += self._pull_back(network, [b.fisher(t, f) for b, _, t, f in parts])
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
        for _, network, blocks, actions in self._chunks:
            pairs = zip(blocks, actions, strict=True)
            scores = [b.score_transpose(a, a.new_ones(a.shape[:2]))[0] for b, a in pairs]
            factors = network.kronecker_factors(torch.cat([score.flatten(1) for score in scores], dim=1))
            sums = [(a + c, g + h) for (a, g), (c, h) in zip(sums, factors, strict=True)] if sums else factors
        sizes = torch.tensor([size for group in self._groups for size in group.independent * group.count])
        parts = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        within_parts = (parts.unsqueeze(1) == parts).to(self.parameters.device)
        means = [(a / self.num_samples, g / self.num_samples) for a, g in sums]
        means[-1] = (means[-1][0], means[-1][1] * within_parts)
        return means

    def _split(self, direction: Tensor) -> tuple[Tensor, list[Tensor]]:
        sizes = [(group.count, group.log_std_size) for group in self._groups]
        network, *log_std = torch.split(direction, [self._chunks[0][1].num_parameters, *(a * b for a, b in sizes)])
        return network, [part.view(size) for part, size in zip(log_std, sizes, strict=True)]

    def _split_outputs(self, outputs: Tensor) -> list[Tensor]:
        return [group.split_outputs(outputs) for group in self._groups]

    @staticmethod
    def _pull_back(network: LinearizedNetwork, cotangents: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        outputs = torch.cat([cotangent.flatten(1) for cotangent, _ in cotangents], dim=1)
        return torch.cat([network.vjp(outputs), *(log_std.reshape(-1) for _, log_std in cotangents)])
