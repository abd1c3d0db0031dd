"""An agent's model of the joint policy: one head per agent on its own observation (paper, section IV.A).

Agent q's network maps o^q to the distribution parameters of pi^q(a^n | o^q) for every agent n. It *acts* with
head q alone; the other heads are its model of what the others do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from matrpo.networks.distributions import MASKED, Block, CategoricalBlock, GaussianBlock, Head
from matrpo.networks.gru import LinearizedRecurrentNetwork, make_network
from matrpo.networks.mlp import LinearizedMLP, flat_parameters
from matrpo.networks.sequences import Sequences
from matrpo.spaces import ActionSpace, Discrete, TaskSpec

CHUNK = 2048 * 128
"""Numbers of the widest layer linearised at a time: a chunk's layers stay in the processor's cache."""

LinearizedNetwork = LinearizedMLP | LinearizedRecurrentNetwork


@dataclass(frozen=True)
class HeadGroup:
    """Consecutive heads with equal action spaces: heads `first` to `first + count - 1`."""

    first: int
    count: int
    space: ActionSpace
    outputs: slice
    actions: slice

    @property
    def size(self) -> int:
        """Distribution parameters of one head that depend on the observation."""
        return self.space.n if isinstance(self.space, Discrete) else self.space.size

    @property
    def free_size(self) -> int:
        """Distribution parameters of one head that do not."""
        return 0 if isinstance(self.space, Discrete) else self.space.size

    def block(self, outputs: Tensor, free: Tensor) -> Block:
        """The distributions at the given parameters, (batch, count, size) and (count, free_size)."""
        kind = CategoricalBlock if isinstance(self.space, Discrete) else GaussianBlock
        return kind(outputs, free)

    def split_outputs(self, outputs: Tensor) -> Tensor:
        """This group's columns of (batch, outputs) as (batch, count, size)."""
        return outputs[:, self.outputs].reshape(-1, self.count, self.size)

    def split_actions(self, joint_action: Tensor) -> Tensor:
        """This group's columns of (batch, width) as (batch, count, width of one)."""
        return joint_action[:, self.actions].reshape(-1, self.count, self.space.width)


def group_heads(spaces: Sequence[ActionSpace]) -> tuple[HeadGroup, ...]:
    """Group consecutive equal action spaces and lay out network outputs and joint-action columns."""
    groups: list[HeadGroup] = []
    first = output = action = 0
    for space, members in groupby(spaces):
        count = len(list(members))
        size = space.n if isinstance(space, Discrete) else space.size
        outputs = slice(output, output + count * size)
        actions = slice(action, action + count * space.width)
        groups.append(HeadGroup(first, count, space, outputs, actions))
        first, output, action = first + count, outputs.stop, actions.stop
    return tuple(groups)


class JointDistribution:
    """Distributions of all heads for a batch of observations.

    Attributes:
        blocks: one per `HeadGroup`.
    """

    def __init__(self, groups: Sequence[HeadGroup], blocks: Sequence[Block]) -> None:
        self.groups = groups
        self.blocks = blocks

    def log_prob(self, joint_action: Tensor) -> Tensor:
        """Log probability of every agent's action. Shapes (batch, width) -> (batch, N)."""
        pairs = zip(self.groups, self.blocks, strict=True)
        return torch.cat([block.log_prob(group.split_actions(joint_action)) for group, block in pairs], dim=1)

    def kl_to(self, other: JointDistribution) -> Tensor:
        """D_KL(self || other) of every head. Shape (batch, N)."""
        pairs = zip(self.blocks, other.blocks, strict=True)
        return torch.cat([a.kl_to(b) for a, b in pairs], dim=1)  # type: ignore[arg-type]

    def total_variation_to(self, other: JointDistribution) -> Tensor:
        """Total variation, or a bound on it, between self and other for every head. Shape (batch, N)."""
        pairs = zip(self.blocks, other.blocks, strict=True)
        return torch.cat([a.total_variation_to(b) for a, b in pairs], dim=1)  # type: ignore[arg-type]

    def entropy(self) -> Tensor:
        """Entropy of every head. Shape (batch, N)."""
        return torch.cat([block.entropy() for block in self.blocks], dim=1)


class JointPolicy(nn.Module):
    """pi^q(a | o^q) = prod_n pi^q(a^n | o^q) as a network with one head per agent.

    Args:
        agent_id: q, the head that acts and that action masks apply to (the availability of the others' actions
            is private to them).
        spec: observation sizes and action spaces.
        hidden_sizes, activation: the network's hidden layers.
        initial_log_std: initial log scale of Gaussian heads.
        generator: source of the initial weights.
        recurrent_layers: GRU layers after the hidden ones; with any, the policy has a memory, and whatever takes the
            samples of a rollout must be given their `Sequences`.
        normalize, orthogonal: as of `networks.MLP`.
    """

    def __init__(
        self,
        agent_id: int,
        spec: TaskSpec,
        hidden_sizes: Sequence[int],
        activation: str,
        initial_log_std: float,
        generator: torch.Generator,
        recurrent_layers: int = 0,
        normalize: bool = False,
        orthogonal: bool = False,
    ) -> None:
        super().__init__()
        self.agent_id = agent_id
        self.num_agents = len(spec.action_spaces)
        self.groups = group_heads(spec.action_spaces)
        self.own_group = next(i for i, g in enumerate(self.groups) if g.first <= agent_id < g.first + g.count)
        sizes = (spec.observation_sizes[agent_id], *hidden_sizes, self.groups[-1].outputs.stop)
        self.network = make_network(sizes, activation, generator, recurrent_layers, 0.01, normalize, orthogonal)
        self.free = nn.ParameterList(
            nn.Parameter(torch.full((g.count, g.free_size), initial_log_std)) for g in self.groups
        )

    def distribution(
        self, observations: Tensor, action_mask: Tensor | None = None, sequences: Sequences | None = None
    ) -> JointDistribution:
        """All heads' distributions.

        Args:
            observations: (batch, observation size).
            action_mask: (batch, n) booleans, the own head's available actions; None if all are.
            sequences: how the observations follow one another, for a policy with a memory.
        """
        return self.distribution_of(self.network(observations, sequences), action_mask)

    def distribution_of(self, outputs: Tensor, action_mask: Tensor | None = None) -> JointDistribution:
        """The distributions that network outputs, (batch, outputs), parameterise."""
        if action_mask is not None:
            outputs = self._mask(outputs, action_mask)
        pairs = zip(self.groups, self.free, strict=True)
        return JointDistribution(self.groups, [g.block(g.split_outputs(outputs), free) for g, free in pairs])

    def own_head(
        self, observations: Tensor, action_mask: Tensor | None = None, sequences: Sequences | None = None
    ) -> Head:
        """The distribution that this agent acts by, as a block of one head; arguments as of `distribution`."""
        return self.own_head_of(self.network(observations, sequences), action_mask)

    def own_head_of(self, outputs: Tensor, action_mask: Tensor | None = None) -> Head:
        """The distribution that this agent acts by at network outputs, (batch, outputs)."""
        if action_mask is not None:
            outputs = self._mask(outputs, action_mask)
        group = self.groups[self.own_group]
        return group.block(outputs[:, self.own_outputs].unsqueeze(1), self.own_free)

    @property
    def own_outputs(self) -> slice:
        """Which network outputs are the own head's."""
        group = self.groups[self.own_group]
        start = group.outputs.start + (self.agent_id - group.first) * group.size
        return slice(start, start + group.size)

    @property
    def own_free(self) -> Tensor:
        """The own head's free parameters, (1, free)."""
        head = self.agent_id - self.groups[self.own_group].first
        free: Tensor = self.free[self.own_group][head : head + 1]
        return free

    def _mask(self, outputs: Tensor, action_mask: Tensor) -> Tensor:
        masked = outputs.clone()
        masked[:, self.own_outputs].masked_fill_(~action_mask, MASKED)
        return masked


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
        self._chunks = []
        last = policy.network.output_layer
        limit = max(1, CHUNK // max(observations.shape[1], last.in_features, last.out_features))
        for rows, network in policy.network.linearize(observations, limit, sequences):
            mask = None if action_mask is None else action_mask[rows]
            with torch.no_grad():
                distribution = policy.distribution_of(network.outputs, mask)
            del network.outputs  # The distribution holds what is needed of them.
            actions = [group.split_actions(joint_action[rows]) for group in policy.groups]
            self._chunks.append((rows, network, distribution.blocks, actions))

    def jvp(self, direction: Tensor) -> Tensor:
        """J^{qn} x for every n: the linearised log ratios. Shapes (D,) -> (N, M)."""
        self.jacobian_products += 1
        network_part, free_parts = self._split(direction)
        scores = []
        for _, network, blocks, actions in self._chunks:
            tangents = self._split_outputs(network.jvp(network_part))
            parts = zip(blocks, actions, tangents, free_parts, strict=True)
            scores.append(torch.cat([b.score(a, t, f) for b, a, t, f in parts], dim=1))
        return torch.cat(scores).T.contiguous()

    def vjp(self, weights: Tensor) -> Tensor:
        """(1/M) sum_n J^{qn T} w^n, the V of eq. (22) for w. Shapes (N, M) -> (D,)."""
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
        """H p (without damping), and J^{qn} p as a by-product. Shapes (D,) -> (D,), (N, M)."""
        self.fisher_products += 1
        network_part, free_parts = self._split(direction)
        total = torch.zeros_like(self.parameters)
        scores = []
        for _, network, blocks, actions in self._chunks:
            tangents = self._split_outputs(network.jvp(network_part))
            parts = list(zip(blocks, actions, tangents, free_parts, strict=True))
            scores.append(torch.cat([b.score(a, t, f) for b, a, t, f in parts], dim=1))
            total += self._pull_back(network, [b.fisher(t, f) for b, _, t, f in parts])
        return total / self.num_samples, torch.cat(scores).T.contiguous()

    def kronecker_factors(self) -> list[tuple[Tensor, Tensor]]:
        """The factors (A, G) of each layer's block of the Fisher matrix, which is near A (x) G; see `preconditioner`.

        Expectations over actions are taken by the actions that were observed; heads are independent in the last layer.
        """
        self.jacobian_products += 1
        sums: list[tuple[Tensor, Tensor]] = []
        for _, network, blocks, actions in self._chunks:
            pairs = zip(blocks, actions, strict=True)
            scores = [b.score_transpose(a, torch.ones(a.shape[:2], dtype=a.dtype))[0] for b, a in pairs]
            factors = network.kronecker_factors(torch.cat([score.flatten(1) for score in scores], dim=1))
            sums = [(a + c, g + h) for (a, g), (c, h) in zip(sums, factors, strict=True)] if sums else factors
        sizes = torch.tensor([group.size for group in self._groups for _ in range(group.count)])
        heads = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        within_heads = heads.unsqueeze(1) == heads
        means = [(a / self.num_samples, g / self.num_samples) for a, g in sums]
        means[-1] = (means[-1][0], means[-1][1] * within_heads)
        return means

    def _split(self, direction: Tensor) -> tuple[Tensor, list[Tensor]]:
        sizes = [(group.count, group.free_size) for group in self._groups]
        network, *free = torch.split(direction, [self._chunks[0][1].num_parameters, *(a * b for a, b in sizes)])
        return network, [part.view(size) for part, size in zip(free, sizes, strict=True)]

    def _split_outputs(self, outputs: Tensor) -> list[Tensor]:
        return [group.split_outputs(outputs) for group in self._groups]

    @staticmethod
    def _pull_back(network: LinearizedNetwork, cotangents: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        outputs = torch.cat([cotangent.flatten(1) for cotangent, _ in cotangents], dim=1)
        return torch.cat([network.vjp(outputs), *(free.reshape(-1) for _, free in cotangents)])
