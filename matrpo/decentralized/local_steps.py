"""Local steps of the two kinds of consensus: what an agent sends at an activation, and the parameter change at the end.

With ADMM, (22) of Li & He, each activation is a trust-region step for the agent's advantages and its links' duals. With
averaging, each agent computes the log ratios of its own natural gradient once, and the links average these: without
estimators, the dual update of (22) is y_e <- y_e + (beta/2) C_e^q (m^q - m^other). For beta = 1 it brings both ends'
m^q = v^q - sum_e C_e^q y_e to their mean (randomised gossip, Boyd et al. 2006).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from matrpo.decentralized.shared_samples import SharedSamples
from matrpo.settings.config import Config
from matrpo.settings.sections import TrustRegionSettings
from matrpo.trust_region.preconditioner import KroneckerPreconditioner
from matrpo.trust_region.solvers import (
    FactoredModel,
    LinearModel,
    Solver,
    conjugate_gradients,
    make_preconditioner,
    make_solver,
)
from matrpo.trust_region.step_rule import StepRule

NaturalGradient = Callable[[Tensor], Tensor]
"""Computes H^{-1} V for a gradient V, with some damping of H. Shapes (D,) -> (D,)."""


class LocalSteps(Protocol):
    """Interface of the local steps of one agent in one iteration: M samples, m of them shared, D parameters."""

    def step(self, term: np.ndarray, shared: SharedSamples) -> np.ndarray:
        """What the agent sends, (N, m) float32, given the consensus term of its links, likewise."""

    def change(self) -> Tensor:
        """The parameter change x^q after the last step. Shape (D,)."""


class LastStep:
    """The trust-region step at the end of a consensus, x = s H^{-1} V, with a damping of H of its own.

    Noise costs more in a step that is taken than in log ratios that are agreed on: a larger damping may pay.

    Args:
        model: the linearised policy.
        solve: H^{-1} V.
        rule: the length s of the step.
    """

    def __init__(self, model: LinearModel, solve: NaturalGradient, rule: StepRule) -> None:
        self._model = model
        self._solve = solve
        self._rule = rule

    def __call__(self, weights: Tensor) -> Tensor:
        """The parameter change for the weights in V. Shapes (N, M) -> (D,)."""
        gradient = self._model.vjp(weights)
        direction = self._solve(gradient)
        return direction * self._rule(float(gradient @ direction))


class AdmmSteps:
    """Local steps of asynchronous ADMM: the update of theta^q in (22).

    Args:
        solver: of the local step.
        advantages: A^q, (M,).
        last: the step that the agent takes for the weights of its last local step; None: that local step itself.
    """

    def __init__(self, solver: Solver, advantages: Tensor, last: LastStep | None = None) -> None:
        self._solver = solver
        self._advantages = advantages
        self._weights = advantages
        self._last = last

    def step(self, term: np.ndarray, shared: SharedSamples) -> np.ndarray:
        """Log ratios u^q = [J^{qn} x^q]_n for the term sum_e (beta ubar_e - C_e^q y_e)."""
        self._weights = self._advantages + torch.from_numpy(shared.spread(term)).to(self._advantages.device)
        return shared.select(self._solver.solve(self._weights).cpu().numpy())

    def change(self) -> Tensor:
        """x^q of the last step."""
        return self._solver.x if self._last is None else self._last(self._weights)


class AveragedGradients:
    """Local steps of consensus by averaging: the log ratios of the agent's natural gradient, computed once.

    v^q = J^q H^{-1} V(A^q) is not scaled to a step; the change is x^q = s H^{-1} V(m^q), at the boundary of the trust
    region. Where observations suffice (Definition 1) and the m^q are their mean, that is the optimum of (15).

    Args:
        model: the linearised policy.
        solve: of the log ratios.
        advantages: A^q, (M,).
        last: the step for the last m^q.
    """

    def __init__(self, model: LinearModel, solve: NaturalGradient, advantages: Tensor, last: LastStep) -> None:
        self._ratios = model.jvp(solve(model.vjp(advantages.expand(model.num_agents, -1))))
        self._weights = self._ratios
        self._last = last

    def step(self, term: np.ndarray, shared: SharedSamples) -> np.ndarray:
        """m^q = v^q - sum_e C_e^q y_e, for the term -sum_e C_e^q y_e."""
        self._weights = self._ratios + torch.from_numpy(shared.spread(term)).to(self._ratios.device)
        mean: np.ndarray = shared.select(self._ratios.cpu().numpy()) + term
        return mean

    def change(self) -> Tensor:
        """x^q for the m^q of the last step."""
        return self._last(self._weights)


def make_local_steps(model: FactoredModel, rule: StepRule, advantages: Tensor, config: Config) -> LocalSteps:
    """Build the local steps of an iteration, of the kind that the settings name."""
    preconditioner = make_preconditioner(model, config)
    last_damping = config.damping if config.step_damping is None else config.step_damping

    def solve(damping: float) -> NaturalGradient:
        return _natural_gradient(model, config, preconditioner, damping)

    def last() -> LastStep:
        return LastStep(model, solve(last_damping), StepRule(rule.kl_step, penalty=0.0))

    if config.consensus == "averaging":
        return AveragedGradients(model, solve(config.damping), advantages, last())
    solver = make_solver(model, rule, preconditioner, config)
    return AdmmSteps(solver, advantages, None if config.step_damping is None else last())


def _natural_gradient(
    model: LinearModel, settings: TrustRegionSettings, preconditioner: KroneckerPreconditioner | None, damping: float
) -> NaturalGradient:
    """A function that computes (H + damping I)^{-1} V by at most `cg_iterations` steps of conjugate gradient.

    With a preconditioner it ends at `solver_tolerance`; there is nothing to recycle.
    """

    def product(direction: Tensor) -> Tensor:
        return model.fisher(direction)[0] + damping * direction

    if preconditioner is None:
        return lambda gradient: conjugate_gradients(product, gradient, settings.cg_iterations)
    limits = settings.cg_iterations, preconditioner.with_damping(damping), settings.solver_tolerance
    return lambda gradient: conjugate_gradients(product, gradient, *limits)
