"""Heterogeneous-agent mirror learning's parts: what an agent's update maximises, and within which policies.

Section 3.3 of HARL (Zhong et al.): an agent's update is told by a drift functional, a neighbourhood operator and a
sampling distribution. Each is a small interface here. Its objective, the mirror operator (Definition 12), is estimated
by eq. (10): E[ratio * M] less the drift, where M is the advantage times the ratios of the agents before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from matrpo.algorithms.shared.learner import Learner, Samples, ascend
from matrpo.networks.distributions import Head
from matrpo.networks.linearized_policy import LinearizedPolicy
from matrpo.networks.sequences import random_parts
from matrpo.settings.config import Config
from matrpo.trust_region.line_search import Reached, line_search
from matrpo.trust_region.solvers import make_solver
from matrpo.trust_region.step_rule import StepRule


class Drift(Protocol):
    """A drift functional: what an objective loses as a policy leaves the old one (Definition 10).

    It is never negative, and zero with all its derivatives where the policies are equal.
    """

    def __call__(self, ratio: Tensor, weights: Tensor, old: Head, new: Head) -> Tensor:
        """The drift at each sample.

        Args:
            ratio: (M,), the new policy's probability of the action, relative to the old one's.
            weights: (M,), the compound advantage M.
            old, new: the policies' distributions at the samples.

        Returns:
            (M,).
        """


class Neighbourhood(Protocol):
    """A neighbourhood operator: among which policies the objective is maximised (Definition 11)."""

    def maximise(self, objective: Objective, learner: Learner) -> dict[str, float]:
        """Change the learner's policy within the neighbourhood; what to report of it."""


class SamplingDistribution(Protocol):
    """A sampling distribution: how much each visited state counts."""

    def __call__(self, samples: Samples) -> Tensor:
        """Weights, (M,), of mean 1."""


@dataclass(frozen=True)
class Mirror:
    """An instance of the template: with these three, Algorithm Template 2 is an algorithm."""

    drift: Drift
    neighbourhood: Neighbourhood
    sampling: SamplingDistribution = field(default_factory=lambda: OnPolicyTrajectories())


class Objective:
    """An agent's sampled mirror operator, eq. (10) less the drift, as a function of its policy.

    Args:
        learner: whose policy it is.
        samples: what it is estimated on.
        old: the policy that acted, on these samples.
        weights: (M,), the compound advantage M of eq. (10).
        mirror: drift and sampling distribution.
    """

    def __init__(self, learner: Learner, samples: Samples, old: Head, weights: Tensor, mirror: Mirror) -> None:
        self.samples = samples
        self.old = old
        self.old_log_prob = samples.log_prob(old)
        self.weights = weights
        self.states = mirror.sampling(samples)
        self._drift = mirror.drift
        self._policy = learner.policy
        self._config = learner.config

    def on(self, rows: Tensor | None, samples: Samples) -> Tensor:
        """The objective's estimate from some samples, and its entropy bonus.

        Args:
            rows: which they are; None for all.
            samples: these samples alone.
        """
        old, old_log_prob, weights, states = self.old, self.old_log_prob, self.weights, self.states
        if rows is not None:
            old, old_log_prob, weights, states = old.select(rows), old_log_prob[rows], weights[rows], states[rows]
        new = samples.head(self._policy)
        ratio = (samples.log_prob(new) - old_log_prob).exp()
        gain = ratio * weights - self._drift(ratio, weights, old, new)
        return ((gain + self._config.entropy_coef * new.entropy().squeeze(1)) * states).mean()

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor | None, Samples]]:
        """Random parts of the samples; arguments of `on`."""
        for units in random_parts(len(self.weights), size, generator, self.samples.sequences):
            yield self.samples.part(units)


class NoDrift:
    """Zero: nothing holds the policy back."""

    def __call__(self, ratio: Tensor, weights: Tensor, old: Head, new: Head) -> Tensor:  # noqa: ARG002
        """Zero at every sample."""
        return torch.zeros_like(ratio)


@dataclass(frozen=True)
class ClipDrift:
    """PPO's clipping as a drift, eq. (30): ReLU((r - clip(r, 1 +- epsilon)) M). r M less it is the clipped objective.

    Attributes:
        clip_range: epsilon.
        settings_read: what `clip_range` makes of the settings.
    """

    settings_read: ClassVar[frozenset[str]] = frozenset({"clip_range", "clip_scaling"})
    clip_range: float

    def __call__(self, ratio: Tensor, weights: Tensor, old: Head, new: Head) -> Tensor:  # noqa: ARG002
        """What clipping takes away at each sample."""
        clipped = ratio.clamp(1.0 - self.clip_range, 1.0 + self.clip_range)
        return ((ratio - clipped) * weights).relu()


@dataclass(frozen=True)
class KLDrift:
    """A multiple of D_KL(old || new).

    Attributes:
        coefficient: the multiple.
    """

    coefficient: float

    def __call__(self, ratio: Tensor, weights: Tensor, old: Head, new: Head) -> Tensor:  # noqa: ARG002
        """The penalty at each sample."""
        return self.coefficient * old.kl_to(new).squeeze(1)


class PolicySpace:
    """All policies: some epochs of gradient ascent."""

    settings_read = frozenset({"actor_lr", "max_grad_norm", "policy_epochs", "policy_batch", "entropy_coef"})

    def maximise(self, objective: Objective, learner: Learner) -> dict[str, float]:
        """Ascend the objective's gradient on minibatches."""
        for _ in range(learner.config.policy_epochs):
            for rows, samples in objective.batches(learner.config.policy_batch, learner.generator):
                ascend(objective.on(rows, samples), [learner])
        return {}


@dataclass(frozen=True)
class KLBall:
    """Policies within mean KL `kl_step` of the old one: the trust-region step of eq. (8) and its line search.

    Attributes:
        shares: how many agents' shares of the trust region, `kl_step` each, the policy has.
    """

    settings_read: ClassVar[frozenset[str]] = frozenset(
        {
            *("kl_step", "damping", "solver", "cg_iterations"),
            *("solver_tolerance", "solver_extension", "solver_check_every"),
            *("backtrack_limit", "backtrack_factor", "backtrack_kl", "accept_ratio"),
        }
    )
    shares: int = 1

    def maximise(self, objective: Objective, learner: Learner) -> dict[str, float]:
        """Step to the boundary along H^{-1} g, shortened until the true KL fits and enough of the gain is real."""
        config, policy = learner.config, learner.policy
        kl_step = self.shares * config.kl_step
        samples, states, weights = _counted(objective)
        actions = samples.actions
        model = LinearizedPolicy(policy, samples.observations, actions, samples.action_masks, samples.sequences)
        solver = make_solver(model, StepRule(kl_step, penalty=0.0), config)
        gains = (weights * states).expand(model.num_agents, -1)
        promised = float((solver.solve(gains) * gains).sum(0).mean())
        old = samples.head(policy)
        old_log_prob = samples.log_prob(old)

        def evaluate() -> tuple[float, float]:
            new = samples.head(policy)
            kl = float((old.kl_to(new).squeeze(1) * states).mean())
            ratio = (samples.log_prob(new) - old_log_prob).exp()
            return kl, float(((ratio - 1.0) * weights * states).mean())

        def accepts(tried: Reached) -> bool:
            enough = config.accept_ratio * tried.fraction * promised
            return tried.kl <= config.backtrack_kl * kl_step and tried.surrogate > enough

        search, parameters = (config.backtrack_limit, config.backtrack_factor), list(policy.parameters())
        reached = line_search(parameters, model.parameters, solver.x, evaluate, accepts, *search)
        products = model.fisher_products
        return {"surrogate": reached.surrogate, "step_fraction": reached.fraction, "fisher_products": products}


class OnPolicyTrajectories:
    """The states that the joint policy visited, where the agent was alive."""

    def __call__(self, samples: Samples) -> Tensor:
        """Equal weights where the agent was alive."""
        alive = samples.alive.float()
        return alive / alive.mean().clamp_min(1e-12)


def clip_range(config: Config, num_agents: int) -> float:
    """How far an agent's ratio may leave 1: with `clip_scaling: per-agent` the more agents, the less.

    The joint policy's total variation is at most the sum of the agents', each at most its clip range: Theorem 3 of
    the paper on decentralised PPO.
    """
    return config.clip_range / num_agents if config.clip_scaling == "per-agent" else config.clip_range


def _counted(objective: Objective) -> tuple[Samples, Tensor, Tensor]:
    """The samples with a weight, their weights and their advantages; all where none has, and samples of a memory."""
    samples, states, weights = objective.samples, objective.states, objective.weights
    counted = states > 0
    if samples.sequences is not None or counted.all() or not counted.any():
        return samples, states, weights
    rows = counted.nonzero().squeeze(1)
    states = states[rows]
    return samples.select(rows, None), states / states.mean(), weights[rows]
