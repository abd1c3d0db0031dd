"""An agent's model of the joint policy: one head per agent on its own observation (paper, section IV.A).

Agent q's network maps its observation o^q to the parameters of the action distribution pi^q(a^n | o^q) of each of the N
agents n. It *acts* with head q alone; the other heads model the other agents' policies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from matrpo.networks.distributions import MASKED, Block, CategoricalBlock, FactoredBlock, GaussianBlock, Head
from matrpo.networks.gru import make_network
from matrpo.networks.sequences import Sequences
from matrpo.settings.sections import NetworkSettings
from matrpo.spaces import ActionSpace, Box, MultiDiscrete, TaskSpec


@dataclass(frozen=True)
class HeadGroup:
    """Consecutive heads with equal action spaces: heads `first` to `first + count - 1`."""

    first: int
    count: int
    space: ActionSpace
    outputs: slice
    actions: slice

    @property
    def heads(self) -> slice:
        """The heads, among all of a joint policy's."""
        return slice(self.first, self.first + self.count)

    @property
    def size(self) -> int:
        """Number of distribution parameters of one head that depend on the observation: logits or means."""
        return self.space.parameters

    @property
    def independent(self) -> tuple[int, ...]:
        """Numbers of these parameters that belong together: those of other parts are independent given the observation.

        The parts are the factors of a discrete action, and all of a continuous one.
        """
        return (self.size,) if isinstance(self.space, Box) else self.space.sizes

    @property
    def log_std_size(self) -> int:
        """Number of distribution parameters of one head that do not: log standard deviations."""
        return self.space.size if isinstance(self.space, Box) else 0

    def block(self, outputs: Tensor, log_std: Tensor) -> Block:
        """The distributions at the given parameters, (batch, count, size) and (count, log_std_size)."""
        if isinstance(self.space, MultiDiscrete):
            return FactoredBlock(outputs, log_std, self.space.sizes)
        kind = GaussianBlock if isinstance(self.space, Box) else CategoricalBlock
        return kind(outputs, log_std)

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
        outputs = slice(output, output + count * space.parameters)
        actions = slice(action, action + count * space.width)
        groups.append(HeadGroup(first, count, space, outputs, actions))
        first, output, action = first + count, outputs.stop, actions.stop
    return tuple(groups)


class JointDistribution:
    """Action distributions of all heads for a batch of observations.

    Attributes:
        blocks: one per `HeadGroup`.
    """

    def __init__(self, groups: Sequence[HeadGroup], blocks: Sequence[Block]) -> None:
        self.groups = groups
        self.blocks = blocks

    def select(self, rows: Tensor | slice) -> JointDistribution:
        """The distributions at some of the samples."""
        return JointDistribution(self.groups, [block.select(rows) for block in self.blocks])

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

    def score(self, joint_action: Tensor, tangent: Tensor, log_std_tangent: Tensor) -> Tensor:
        """Directional derivative of `log_prob(joint_action)` along a change of outputs and log standard deviations.

        Shapes (batch, width), (batch, outputs), (log deviations of all groups,) -> (batch, N).
        """
        parts = self._parts(tangent, log_std_tangent)
        scores = [b.score(g.split_actions(joint_action), outputs, log_std) for g, b, outputs, log_std in parts]
        return torch.cat(scores, dim=1)

    def score_transpose(self, joint_action: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Transpose of `score`, for weights (batch, N): cotangents of outputs and of log standard deviations."""
        pairs = zip(self.groups, self.blocks, strict=True)
        return _joined([b.score_transpose(g.split_actions(joint_action), weights[:, g.heads]) for g, b in pairs])

    def fisher(self, tangent: Tensor, log_std_tangent: Tensor) -> tuple[Tensor, Tensor]:
        """Fisher matrix of outputs and log standard deviations times a tangent; shapes as of `score`."""
        parts = self._parts(tangent, log_std_tangent)
        return _joined([block.fisher(outputs, log_std) for _, block, outputs, log_std in parts])

    def _parts(self, outputs: Tensor, log_std: Tensor) -> Iterator[tuple[HeadGroup, Block, Tensor, Tensor]]:
        """Each group with its block, and its part of some change."""
        changes = torch.split(log_std, [group.count * group.log_std_size for group in self.groups])
        for group, block, change in zip(self.groups, self.blocks, changes, strict=True):
            yield group, block, group.split_outputs(outputs), change.view(group.count, group.log_std_size)


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Cotangents of all groups, (batch, outputs) and (log deviations,)."""
    return torch.cat([a.flatten(1) for a, _ in parts], dim=1), torch.cat([b.reshape(-1) for _, b in parts])


class JointPolicy(nn.Module):
    """Joint policy pi^q(a | o^q) = prod_n pi^q(a^n | o^q): a network with one head per agent.

    Args:
        agent_id: q, the head that acts and that action masks apply to (the availability of the others' actions
            is private to them).
        spec: observation sizes and action spaces.
        networks: architecture; with GRU layers the policy is recurrent, and whatever takes the samples of a rollout
            must be given their `Sequences`.
        generator: source of the initial weights.
    """

    def __init__(self, agent_id: int, spec: TaskSpec, networks: NetworkSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.agent_id = agent_id
        self.num_agents = len(spec.action_spaces)
        self.groups = group_heads(spec.action_spaces)
        self.own_group = next(i for i, g in enumerate(self.groups) if g.first <= agent_id < g.first + g.count)
        inputs, outputs = spec.observation_sizes[agent_id], self.groups[-1].outputs.stop
        self.network = make_network(inputs, outputs, networks, generator, 0.01)
        self.free = nn.ParameterList(
            nn.Parameter(torch.full((g.count, g.log_std_size), networks.initial_log_std)) for g in self.groups
        )

    @property
    def log_std(self) -> nn.ParameterList:
        """The log standard deviations of each group's Gaussian heads, (count, size); checkpoints call them `free`."""
        return self.free

    def distribution(
        self, observations: Tensor, action_mask: Tensor | None = None, sequences: Sequences | None = None
    ) -> JointDistribution:
        """Action distributions of all heads.

        Args:
            observations: (batch, observation size).
            action_mask: (batch, n) booleans, the own head's available actions; None if all are.
            sequences: how the observations follow one another, for a recurrent policy.
        """
        return self.distribution_of(self.network(observations, sequences), action_mask)

    def distribution_of(self, outputs: Tensor, action_mask: Tensor | None = None) -> JointDistribution:
        """Action distributions of all heads at given network outputs, (batch, outputs)."""
        if action_mask is not None:
            outputs = self._mask(outputs, action_mask)
        pairs = zip(self.groups, self.log_std, strict=True)
        return JointDistribution(self.groups, [g.block(g.split_outputs(outputs), log_std) for g, log_std in pairs])

    def own_head_of(self, outputs: Tensor, action_mask: Tensor | None = None) -> Head:
        """Distribution of this agent's own action, as a block of one head, at network outputs (batch, outputs)."""
        if action_mask is not None:
            outputs = self._mask(outputs, action_mask)
        group = self.groups[self.own_group]
        return group.block(outputs[:, self.own_outputs].unsqueeze(1), self.own_log_std)

    @property
    def own_outputs(self) -> slice:
        """Slice of the network outputs that belong to the own head."""
        group = self.groups[self.own_group]
        start = group.outputs.start + (self.agent_id - group.first) * group.size
        return slice(start, start + group.size)

    @property
    def own_log_std(self) -> Tensor:
        """The own head's log standard deviations, (1, size); (1, 0) of a discrete action."""
        head = self.agent_id - self.groups[self.own_group].first
        log_std: Tensor = self.log_std[self.own_group][head : head + 1]
        return log_std

    def _mask(self, outputs: Tensor, action_mask: Tensor) -> Tensor:
        masked = outputs.clone()
        masked[:, self.own_outputs].masked_fill_(~action_mask, MASKED)
        return masked
