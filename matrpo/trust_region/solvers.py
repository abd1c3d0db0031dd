"""Natural-gradient solvers of MATRPO's local step, eq. (22)'s update of theta^q, by conjugate gradient.

For the weights w in R^{N x M} of an activation (N agents, M samples), a solver returns the parameter change
x = s H^{-1} V and log ratios u = [J^{qn} x]_n: step length s, Fisher matrix H, gradient V = (1/M) sum_n J^{qn T} w^n,
Jacobian J. J and H stay fixed within an iteration; only w changes from one activation to the next. `RecycledSolver`
keeps the H-conjugate directions it has found (with a preconditioner), so that most activations need no network pass;
`ConjugateGradientSolver` starts afresh at every activation and is the plain reference.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from matrpo.settings.sections import TrustRegionSettings
from matrpo.trust_region.preconditioner import KroneckerPreconditioner
from matrpo.trust_region.step_rule import StepRule


class LinearModel(Protocol):
    """Interface of a linearised policy of D parameters, such as `LinearizedPolicy`: Jacobian and Fisher products."""

    num_samples: int
    num_agents: int
    parameters: Tensor

    def jvp(self, direction: Tensor) -> Tensor:
        """Jacobian-vector product J x. Shapes (D,) -> (N, M)."""

    def vjp(self, weights: Tensor) -> Tensor:
        """Vector-Jacobian product (1/M) J^T w. Shapes (N, M) -> (D,)."""

    def fisher(self, direction: Tensor) -> tuple[Tensor, Tensor | None]:
        """Fisher-vector product H p without damping, and J p if it comes of that. Shapes (D,) -> (D,), (N, M)."""


class FactoredModel(LinearModel, Protocol):
    """A linear model that can be preconditioned."""

    def kronecker_factors(self) -> list[tuple[Tensor, Tensor]]:
        """Kronecker factors of each layer's block of the Fisher matrix; see `preconditioner`."""


class RecycledSolver:
    """Conjugate gradient with recycling: solves for one w after another, reusing all earlier conjugate directions p_k.

    With d_k = p_k^T H p_k, H^{-1} V restricted to the span of the directions is sum_k c_k p_k with
    c_k = p_k^T V / d_k = <J p_k, w> / (M d_k), and V^T H^{-1} V = sum_k c_k^2 d_k: two passes over the stored J p_k and
    no network pass. At the first solve and every `solver_check_every` solves V itself is computed, and directions are
    added along the preconditioned residual V - sum_k c_k H p_k while it exceeds `solver_tolerance` relative to V.

    Args:
        model: the linearised policy.
        rule: the step length.
        precondition: an approximate inverse of H.
        settings: damping, how many directions the first solve and a later check make at most, and when to check.
    """

    def __init__(
        self,
        model: LinearModel,
        rule: StepRule,
        precondition: Callable[[Tensor], Tensor],
        settings: TrustRegionSettings,
    ) -> None:
        self._model = model
        self._rule = rule
        self._precondition = precondition
        self._damping = settings.damping
        self._first_directions = first_directions = settings.cg_iterations
        self._tolerance = settings.solver_tolerance
        self._extension = settings.solver_extension
        self._check_every = settings.solver_check_every
        self._solves = 0
        self._size = 0
        self._curvatures = model.parameters.new_empty(first_directions)  # d_k
        like = model.parameters
        self._directions = _stored(first_directions, like.numel(), like)  # p_k
        self._products = _stored(first_directions, like.numel(), like)  # H p_k
        self._ratios = _stored(first_directions, model.num_agents * model.num_samples, like)  # J p_k
        self._coefficients = model.parameters.new_empty(0)

    @property
    def num_directions(self) -> int:
        """Number of conjugate directions kept."""
        return self._size

    @property
    def x(self) -> Tensor:
        """The parameter change of the latest solve. Shape (D,)."""
        return self._directions[: self._size].T @ self._coefficients

    def solve(self, w: Tensor) -> Tensor:
        """The log ratios u = J x of the local step for the weights w. Shapes (N, M) -> (N, M)."""
        flat = w.reshape(-1)
        if self._solves == 0:
            self._extend(w, self._first_directions)
        elif self._solves % self._check_every == 0:
            self._extend(w, self._extension)
        self._solves += 1
        coefficients = self._project(flat)
        quadratic = float(coefficients.square() @ self._curvatures[: self._size])
        self._coefficients = coefficients * self._rule(quadratic)
        return (self._ratios[: self._size].T @ self._coefficients).view_as(w)

    def _project(self, flat: Tensor) -> Tensor:
        inner = self._ratios[: self._size] @ flat
        return inner / (self._model.num_samples * self._curvatures[: self._size])

    def _extend(self, w: Tensor, count: int) -> None:
        """Add up to `count` directions by CG on the residual of w, each made conjugate to all others."""
        gradient = self._model.vjp(w)
        residual = gradient - self._products[: self._size].T @ self._project(w.reshape(-1))
        tolerance = max(self._tolerance, 100.0 * torch.finfo(residual.dtype).eps)
        smallest = tolerance * float(gradient.norm())
        for _ in range(count):
            if float(residual.norm()) <= smallest:
                return
            direction = self._precondition(residual)
            direction = self._conjugate(self._conjugate(direction / direction.norm()))
            product, ratios = self._model.fisher(direction)
            ratios = self._model.jvp(direction) if ratios is None else ratios
            product += self._damping * direction
            curvature = float(direction @ product)
            if not 0.0 < curvature < math.inf:
                return
            residual = residual - (float(direction @ residual) / curvature) * product
            row = self._size
            if row == len(self._curvatures):
                self._grow()
            self._directions[row], self._products[row] = direction, product
            self._ratios[row], self._curvatures[row] = ratios.reshape(-1), curvature
            self._size += 1

    def _conjugate(self, vector: Tensor) -> Tensor:
        """Remove the H-components along all kept directions; applied twice, it holds to rounding."""
        directions, products = self._directions[: self._size], self._products[: self._size]
        return vector - directions.T @ ((products @ vector) / self._curvatures[: self._size])

    def _grow(self) -> None:
        """Enlarge the storage by half as many directions again."""
        rows = 3 * self._size // 2 + 1

        def grown(store: Tensor) -> Tensor:
            larger = _stored(rows, store.shape[1], store)
            larger[: self._size] = store
            return larger

        self._curvatures = torch.cat([self._curvatures, self._curvatures.new_empty(rows - self._size)])
        self._ratios = grown(self._ratios)
        self._directions = grown(self._directions)
        self._products = grown(self._products)


def _stored(rows: int, columns: int, like: Tensor) -> Tensor:
    """Storage for vectors, of the type and on the device of `like`; on the processor memory-mapped, not in the heap.

    Mapped, it takes memory row by row as written and returns it whole. The heap would keep it, in pieces, between the
    arrays that come and go while the consensus lasts.
    """
    if not like.is_cpu:
        return like.new_empty(rows, columns)
    dtype = like.dtype
    room = mmap.mmap(-1, max(1, rows * columns * dtype.itemsize), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(room, dtype=dtype, count=rows * columns).view(rows, columns)


class ConjugateGradientSolver:
    """Plain conjugate gradient: solves for each w by `cg_iterations` steps from zero.

    Args:
        model: the linearised policy.
        rule: the step length.
        settings: damping, and Fisher products per solve.
    """

    def __init__(self, model: LinearModel, rule: StepRule, settings: TrustRegionSettings) -> None:
        self._model = model
        self._rule = rule
        self._damping = settings.damping
        self._iterations = settings.cg_iterations
        self.x = torch.zeros_like(model.parameters)

    def solve(self, w: Tensor) -> Tensor:
        """The log ratios u = J x of the local step for the weights w. Shapes (N, M) -> (N, M)."""
        gradient = self._model.vjp(w)
        solution = conjugate_gradients(self._product, gradient, self._iterations)
        self.x = solution * self._rule(float(gradient @ solution))
        return self._model.jvp(self.x)

    def _product(self, direction: Tensor) -> Tensor:
        return self._model.fisher(direction)[0] + self._damping * direction


Solver = RecycledSolver | ConjugateGradientSolver


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    target: Tensor,
    iterations: int,
    precondition: Callable[[Tensor], Tensor] = torch.clone,
    tolerance: float = 1e-10,
) -> Tensor:
    """Conjugate gradient: solve H x = target approximately for symmetric positive definite H, given by its product.

    Stops before `iterations` where the residual falls under the tolerance relative to the target, and where rounding
    leaves a direction without a positive and finite p^T H p. `precondition` applies an approximate inverse of H.
    """
    solution = torch.zeros_like(target)
    residual = target.clone()
    smallest = tolerance * float(target.norm())
    direction, previous = torch.zeros_like(target), math.inf
    for _ in range(iterations):
        if float(residual.norm()) <= smallest:
            break
        improved = precondition(residual)
        square = float(residual @ improved)
        direction = improved + (square / previous) * direction
        previous = square
        image = product(direction)
        curvature = float(direction @ image)
        if not 0.0 < curvature < math.inf:
            break
        length = square / curvature
        solution += length * direction
        residual -= length * image
    return solution


def make_preconditioner(model: FactoredModel, settings: TrustRegionSettings) -> KroneckerPreconditioner | None:
    """Build the preconditioner of the solver that the settings name; plain conjugate gradient, `cg`, has none."""
    return None if settings.solver == "cg" else KroneckerPreconditioner(model.kronecker_factors(), settings.damping)


def make_solver(
    model: LinearModel, rule: StepRule, preconditioner: KroneckerPreconditioner | None, settings: TrustRegionSettings
) -> Solver:
    """Build a solver: with a preconditioner it recycles."""
    if preconditioner is None:
        return ConjugateGradientSolver(model, rule, settings)
    return RecycledSolver(model, rule, preconditioner, settings)
