"""Training samples of one policy, and the optimiser that updates it. M: samples; O, W: observation, action size."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from matrpo.networks.backpropagation import forward_pass
from matrpo.networks.distributions import Head, by_column
from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.optimizer import make_adam, step_along
from matrpo.networks.sequences import Sequences, samples_of, side_by_side, subset
from matrpo.settings.config import Config


@dataclass(frozen=True)
class Samples:
    """The M training samples of one policy in an iteration.

    Attributes:
        observations: (M, O).
        actions: (M, W), what the policy's owner did.
        action_masks: (M, n), or None where every action is always available.
        alive: (M,) booleans: whether the owner was in the episode and could do anything.
        sequences: how the samples follow one another, for a policy with a memory.
    """

    observations: Tensor
    actions: Tensor
    action_masks: Tensor | None
    alive: Tensor
    sequences: Sequences | None

    def head(self, policy: JointPolicy) -> Head:
        """The policy's action distributions at these samples."""
        return self.head_of(policy, policy.network(self.observations, self.sequences))

    def head_of(self, policy: JointPolicy, outputs: Tensor) -> Head:
        """The policy's action distributions at these samples, from its network's outputs, (M, outputs)."""
        return policy.own_head_of(by_column(outputs), self.action_masks)

    def log_prob(self, head: Head) -> Tensor:
        """Log probabilities of the actions under such distributions. (M,)."""
        return head.log_prob(self.actions.unsqueeze(1)).squeeze(1)

    def part(self, units: Tensor | None) -> tuple[Tensor | None, Samples]:
        """A minibatch that `sequences.random_parts` names, None for all: the samples' row numbers, and the samples."""
        rows, sequences = samples_of(units, self.sequences)
        return rows, self if rows is None else self.select(rows, sequences)

    def select(self, rows: Tensor, sequences: Sequences | None) -> Samples:
        """A subset of the samples, in the given sequences."""
        masks = None if self.action_masks is None else subset(self.action_masks, rows)
        observations, actions, alive = (subset(part, rows) for part in (self.observations, self.actions, self.alive))
        return Samples(observations, actions, masks, alive, sequences)


def standardized(advantages: Tensor, samples: Samples) -> Tensor:
    """Advantages of zero mean and unit variance over the samples where the agent is alive, if any. (M,)."""
    counted = advantages[samples.alive]
    if not len(counted):
        return torch.zeros_like(advantages)
    return (advantages - counted.mean()) / (counted.std(correction=0) + 1e-5)


def merge(parts: Sequence[Samples], length: int) -> Samples:
    """Concatenate the samples of several agents, as if they were one agent's in more environments.

    Args:
        parts: each agent's.
        length: T.
    """
    masks = _whole([part.action_masks for part in parts])
    sequences = [part.sequences for part in parts if part.sequences is not None]
    return Samples(
        side_by_side([part.observations for part in parts], length),
        side_by_side([part.actions for part in parts], length),
        side_by_side(masks, length) if masks else None,
        side_by_side([part.alive for part in parts], length),
        Sequences.merge(sequences) if sequences else None,
    )


def _whole(masks: Sequence[Tensor | None]) -> list[Tensor]:
    """The agents' action masks, those of agents without any allowing everything; none at all if nobody has any."""
    given = next((mask for mask in masks if mask is not None), None)
    return [] if given is None else [torch.ones_like(given) if mask is None else mask for mask in masks]


class Learner:
    """A policy and its optimiser.

    Args:
        policy: its parameters change; it is moved to where it learns.
        config: the run's settings.
        generator: of the order of samples.

    Attributes:
        kl_step: an agent's share of the trust region in this iteration.
    """

    def __init__(self, policy: JointPolicy, config: Config, generator: torch.Generator) -> None:
        self.policy = policy.to(torch.device(config.device))
        self.config = config
        self.generator = generator
        self.optimizer = make_adam(policy.parameters(), lr=config.actor_lr, eps=1e-5)
        self.kl_step = config.kl_step


class PolicyPass:
    """A policy's distributions at a minibatch, which an objective of theirs is ascended through.

    Args:
        learner: whose policy it is.
        samples: the minibatch.

    Attributes:
        learner: as given.
        head: the distributions.
    """

    def __init__(self, learner: Learner, samples: Samples) -> None:
        policy = learner.policy
        self.learner = learner
        self._forward = forward_pass(policy.network, samples.observations, samples.sequences)
        self._outputs = by_column(self._forward.outputs).requires_grad_()
        self.head: Head = policy.own_head_of(self._outputs, samples.action_masks)

    def network_gradients(self) -> list[Tensor]:
        """The gradient of what `backward` was called of last, with respect to each parameter of the network."""
        assert self._outputs.grad is not None
        return self._forward.gradients(self._outputs.grad)


def ascend(objective: Tensor, passes: Sequence[PolicyPass]) -> None:
    """One gradient ascent step of every policy that a scalar objective depends on, through these passes."""
    learners = dict.fromkeys(each.learner for each in passes)
    for learner in learners:
        learner.policy.log_std.zero_grad()
    (-objective).backward()  # type: ignore[no-untyped-call]
    for learner in learners:
        of_passes = zip(*(each.network_gradients() for each in passes if each.learner is learner), strict=True)
        network = [functools.reduce(torch.add, parts) for parts in of_passes]
        log_std = [torch.zeros_like(part) if part.grad is None else part.grad for part in learner.policy.log_std]
        step_along(learner.optimizer, [*network, *log_std], learner.config.max_grad_norm)
