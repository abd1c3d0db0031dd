"""Parts of heterogeneous-agent mirror learning: an agent's surrogate objective, its penalty, its trust region.

Section 3.3 of HARL (Zhong et al.): an agent's update is set by a drift functional, a neighbourhood operator and a
sampling distribution. Each is a small interface here. Its objective, the mirror operator (Definition 12), is estimated
by eq. (10): E[ratio * M] less the drift, where M is the advantage times the ratios of the agents before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from matrpo.algorithms.shared.learner import Learner, PolicyPass, Samples, ascend
from matrpo.networks.distributions import Head
from matrpo.networks.sequences import random_parts, subset
from matrpo.settings.config import Config
from matrpo.trust_region.line_search import Reached, line_search
from matrpo.trust_region.sampled_fisher import linearize
from matrpo.trust_region.solvers import make_preconditioner, make_solver
from matrpo.trust_region.step_rule import StepRule


class Drift(Protocol):
    """A drift functional: the objective's penalty for leaving the old policy (Definition 10).

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
    """A neighbourhood operator: the trust region in which the objective is maximised (Definition 11)."""

    def maximise(self, objective: Objective, learner: Learner) -> dict[str, float]:
        """Update the learner's policy within the neighbourhood; the metrics to report."""


class SamplingDistribution(Protocol):
    """A sampling distribution: the weight of each visited state in the objective."""

    def __call__(self, samples: Samples) -> Tensor:
        """Weights, (M,), of mean 1."""


@dataclass(frozen=True)
class Mirror:
    """The three parts that make an algorithm of Algorithm Template 2."""

    drift: Drift
    neighbourhood: Neighbourhood
    sampling: SamplingDistribution = field(default_factory=lambda: OnPolicyTrajectories())


class Objective:
    """An agent's surrogate objective, the sampled mirror operator: eq. (10) less the drift.

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
        self._config = learner.config

    def on(self, rows: Tensor | None, samples: Samples, new: Head) -> Tensor:
        """The objective, entropy bonus included, estimated from a minibatch.

        Args:
            rows: which they are; None for all.
            samples: these samples alone.
            new: the policy's distributions there.
        """
        old = self.old if rows is None else self.old.select(rows)
        old_log_prob, weights, states = (subset(part, rows) for part in (self.old_log_prob, self.weights, self.states))
        ratio = (samples.log_prob(new) - old_log_prob).exp()
        gain = ratio * weights - self._drift(ratio, weights, old, new)
        return ((gain + self._config.entropy_coef * new.entropy().squeeze(1)) * states).mean()

    def batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor | None, Samples]]:
        """Random minibatches of the samples, as arguments of `on`."""
        for units in random_parts(len(self.weights), size, generator, self.samples.sequences, self.weights.device):
            yield self.samples.part(units)


class NoDrift:
    """No penalty: a drift of zero."""

    def __call__(self, ratio: Tensor, weights: Tensor, old: Head, new: Head) -> Tensor:  # noqa: ARG002
        """Zero at every sample."""
        return torch.zeros_like(ratio)


@dataclass(frozen=True)
class ClipDrift:
    """PPO's clipping as a drift, eq. (30): ReLU((r - clip(r, 1 +- epsilon)) M). r M less it is the clipped objective.

    Attributes:
        clip_range: epsilon.
        settings_read: the settings that the function `clip_range` reads.
    """

    settings_read: ClassVar[frozenset[str]] = frozenset({"clip_range", "clip_scaling"})
    clip_range: float

    def __call__(self, ratio: Tensor, weights: Tensor, old: Head, new: Head) -> Tensor:  # noqa: ARG002
        """The gain that clipping removes at each sample."""
        clipped = ratio.clamp(1.0 - self.clip_range, 1.0 + self.clip_range)
        return ((ratio - clipped) * weights).relu()


@dataclass(frozen=True)
class KLDrift:
    """A KL penalty: a multiple of D_KL(old || new).

    Attributes:
        coefficient: the multiple.
    """

    coefficient: float

    def __call__(self, ratio: Tensor, weights: Tensor, old: Head, new: Head) -> Tensor:  # noqa: ARG002
        """The penalty at each sample."""
        return self.coefficient * old.kl_to(new).squeeze(1)


class PolicySpace:
    """No trust region: epochs of minibatch gradient ascent among all policies."""

    settings_read = frozenset({"actor_lr", "max_grad_norm", "policy_epochs", "policy_batch", "entropy_coef"})

    def maximise(self, objective: Objective, learner: Learner) -> dict[str, float]:
        """Ascend the objective's gradient on minibatches."""
        for _ in range(learner.config.policy_epochs):
            for rows, samples in objective.batches(learner.config.policy_batch, learner.generator):
                forward = PolicyPass(learner, samples)
                ascend(objective.on(rows, samples, forward.head), [forward])
        return {}


@dataclass(frozen=True)
class KLBall:
    """A KL trust region, mean KL `kl_step` around the old policy: natural gradient step of eq. (8) and line search.

    Attributes:
        shares: how many agents' shares of the trust region, `kl_step` each, the policy has.
    """

    settings_read: ClassVar[frozenset[str]] = frozenset(
        {
            *("kl_step", "kl_decay", "damping", "fisher_samples", "solver", "cg_iterations"),
            *("solver_tolerance", "solver_extension", "solver_check_every"),
            *("backtrack_limit", "backtrack_factor", "backtrack_kl", "accept_ratio"),
        }
    )
    shares: int = 1

    def maximise(self, objective: Objective, learner: Learner) -> dict[str, float]:
        """Natural gradient step H^{-1} g (H: Fisher matrix) to the boundary, then line search on true KL and gain."""
        config, policy = learner.config, learner.policy
        kl_step = self.shares * learner.kl_step
        samples, states, weights = _counted(objective)
        parts = samples.observations, samples.actions, samples.action_masks, samples.sequences
        model = linearize(policy, *parts, config.fisher_share)
        rule = StepRule(kl_step, penalty=0.0)
        solver = make_solver(model, rule, make_preconditioner(model, config), config)
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
    """PPO's clip range of an agent's ratio, divided by the number of agents with `clip_scaling: per-agent`.

    The joint policy's total variation is at most the sum of the agents', each at most its clip range: Theorem 3 of
    the paper on decentralised PPO.
    """
    return config.clip_range / num_agents if config.clip_scaling == "per-agent" else config.clip_range


def _counted(objective: Objective) -> tuple[Samples, Tensor, Tensor]:
    """Samples of nonzero weight, their weights and advantages; all if none has any, or for a recurrent policy."""
    samples, states, weights = objective.samples, objective.states, objective.weights
    counted = states > 0
    if samples.sequences is not None or counted.all() or not counted.any():
        return samples, states, weights
    rows = counted.nonzero().squeeze(1)
    states = states[rows]
    return samples.select(rows, None), states / states.mean(), weights[rows]
