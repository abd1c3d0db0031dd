"""Training samples of one policy, and the optimiser that updates it. M: samples; O, W: observation, action size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from matrpo.networks.distributions import Head
from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.optimizer import make_adam
from matrpo.networks.sequences import Sequences, samples_of, side_by_side
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
        return policy.own_head(self.observations, self.action_masks, self.sequences)

    def log_prob(self, head: Head) -> Tensor:
        """Log probabilities of the actions under such distributions. (M,)."""
        return head.log_prob(self.actions.unsqueeze(1)).squeeze(1)

    def part(self, units: Tensor | None) -> tuple[Tensor | None, Samples]:
        """A minibatch that `sequences.random_parts` names, None for all: the samples' row numbers, and the samples."""
        rows, sequences = samples_of(units, self.sequences)
        return rows, self if rows is None else self.select(rows, sequences)

    def select(self, rows: Tensor, sequences: Sequences | None) -> Samples:
        """A subset of the samples, in the given sequences."""
        masks = None if self.action_masks is None else self.action_masks[rows]
        return Samples(self.observations[rows], self.actions[rows], masks, self.alive[rows], sequences)


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
        policy: its parameters change.
        config: the run's settings.
        generator: of the order of samples.
    """

    def __init__(self, policy: JointPolicy, config: Config, generator: torch.Generator) -> None:
        self.policy = policy
        self.config = config
        self.generator = generator
        self.optimizer = make_adam(policy.parameters(), lr=config.actor_lr, eps=1e-5)


def ascend(objective: Tensor, learners: Sequence[Learner]) -> None:
    """One gradient ascent step of every learner's policy on a scalar objective."""
    for learner in learners:
        learner.optimizer.zero_grad()
    (-objective).backward()  # type: ignore[no-untyped-call]
    for learner in learners:
        if learner.config.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(learner.policy.parameters(), learner.config.max_grad_norm)
        learner.optimizer.step()
