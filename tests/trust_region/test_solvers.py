"""The local step against dense references: closed forms, a dense KKT solution, and one solver against the other."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from dense import MIXED, dense_hessian, dense_jacobian, dense_kkt, draw_samples, make_policy, make_spec
from matrpo.envs.registry import make_env
from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.linearized_policy import LinearizedPolicy
from matrpo.settings.sections import NetworkSettings, TrustRegionSettings
from matrpo.trust_region.preconditioner import KroneckerPreconditioner
from matrpo.trust_region.solvers import ConjugateGradientSolver, RecycledSolver, conjugate_gradients
from matrpo.trust_region.step_rule import StepRule

DAMPING = 0.05
KL_STEP = 0.01


def settings_of(directions: int, tolerance: float = 1e-10, extension: int = 2) -> TrustRegionSettings:
    return TrustRegionSettings(
        damping=DAMPING,
        cg_iterations=directions,
        solver_tolerance=tolerance,
        solver_extension=extension,
        solver_check_every=1,
    )


class Instance:
    """A small float64 linearisation with its dense J (N, M, D) and damped H (D, D)."""

    def __init__(self, samples: int = 40) -> None:
        spec = make_spec(MIXED, 3)
        policy = make_policy(spec, agent_id=2, seed=8)
        observations, actions = draw_samples(spec, policy, samples, seed=9)
        self.model = LinearizedPolicy(policy, observations, actions)
        self.jacobian = dense_jacobian(policy, observations, actions)
        hessian = dense_hessian(policy, observations)
        self.hessian = hessian + DAMPING * torch.eye(len(hessian), dtype=torch.float64)
        self.generator = torch.Generator().manual_seed(10)

    def draw_weights(self, scale: float) -> torch.Tensor:
        shape = self.jacobian.shape[:2]
        return scale * torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def gradient(self, weights: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nmd,nm->d", self.jacobian, weights) / weights.shape[1]

    def recycled(
        self, rule: StepRule, directions: int, tolerance: float = 1e-10, extension: int = 2, precondition=lambda v: v
    ) -> RecycledSolver:
        return RecycledSolver(
            self.model,
            rule,
            precondition,
            settings_of(directions, tolerance, extension),
        )


@pytest.fixture(scope="module")
def instance():
    return Instance()


@pytest.mark.parametrize("make", ["recycled", "cg"])
@pytest.mark.parametrize(("scale", "penalty", "binding"), [(10.0, 2.0, True), (0.01, 2.0, False), (1.0, 0.0, True)])
def test_local_step_is_the_kkt_point(instance, make, scale, penalty, binding):
    rule = StepRule(KL_STEP, penalty)
    dimension = len(instance.hessian)
    if make == "recycled":
        solver = instance.recycled(rule, directions=dimension)
    else:
        solver = ConjugateGradientSolver(instance.model, rule, settings_of(4 * dimension))
    weights = instance.draw_weights(scale)
    ratios = solver.solve(weights)

    expected = dense_kkt(instance.hessian.numpy(), instance.gradient(weights).numpy(), penalty, KL_STEP)
    kl = 0.5 * expected @ instance.hessian.numpy() @ expected
    assert (kl > 0.999 * KL_STEP) == binding
    error = np.linalg.norm(solver.x.numpy() - expected) / np.linalg.norm(expected)
    assert error < 1e-6
    torch.testing.assert_close(ratios, instance.jacobian @ solver.x, rtol=1e-8, atol=1e-10)


def test_dense_kkt_agrees_with_a_general_solver(instance):
    """The reference itself, against scipy's SLSQP on the subproblem in the space of 5 random directions."""
    basis = torch.linalg.qr(torch.randn(len(instance.hessian), 5, generator=instance.generator).double())[0]
    hessian = (basis.T @ instance.hessian @ basis).numpy()
    for scale, penalty in ((10.0, 2.0), (0.01, 2.0)):
        gradient = (basis.T @ instance.gradient(instance.draw_weights(scale))).numpy()
        found = minimize(
            lambda x, g=gradient, p=penalty: -g @ x + 0.5 * p * x @ hessian @ x,
            np.zeros(5),
            method="SLSQP",
            constraints={"type": "ineq", "fun": lambda x: KL_STEP - 0.5 * x @ hessian @ x},
            options={"ftol": 1e-15, "maxiter": 1000},
        )
        np.testing.assert_allclose(dense_kkt(hessian, gradient, penalty, KL_STEP), found.x, rtol=2e-3, atol=1e-7)


def test_the_papers_rule_always_takes_the_boundary():
    assert StepRule(0.01, 2.0, literal=True)(1e-6) == pytest.approx(math.sqrt(0.02 / 1e-6))
    assert StepRule(0.01, 2.0)(1e-6) == 0.5
    assert StepRule(0.01, 2.0)(100.0) == pytest.approx(math.sqrt(0.02 / 100.0))
    assert StepRule(0.01, 0.0)(1e-6) == pytest.approx(math.sqrt(0.02 / 1e-6))
    assert StepRule(0.01, 2.0)(0.0) == 0.0


def test_recycled_directions_are_conjugate(instance):
    solver = instance.recycled(StepRule(KL_STEP, 2.0), directions=6, tolerance=1e-12, extension=3)
    for _ in range(4):
        solver.solve(instance.draw_weights(1.0))
    size = solver.num_directions
    assert size == 6 + 3 * 3
    directions = solver._directions[:size]
    gram = directions @ instance.hessian @ directions.T
    torch.testing.assert_close(gram, torch.diag(solver._curvatures[:size]), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(solver._products[:size], directions @ instance.hessian, rtol=1e-8, atol=1e-10)


def test_recycled_solver_matches_cg_on_a_fixed_system_without_further_products(instance):
    """The same w again costs no Fisher product, and the answer is CG's after as many iterations."""
    rule = StepRule(KL_STEP, 2.0)
    weights = instance.draw_weights(10.0)
    reference = ConjugateGradientSolver(instance.model, rule, settings_of(8))
    expected = reference.solve(weights)
    solver = instance.recycled(rule, directions=8, tolerance=1e-10, extension=0)
    first = solver.solve(weights)
    before = instance.model.fisher_products
    again = solver.solve(weights)
    assert instance.model.fisher_products == before
    torch.testing.assert_close(first, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(again, first)


def test_a_check_extends_the_basis_until_the_residual_is_small(instance):
    dimension = len(instance.hessian)
    solver = instance.recycled(StepRule(KL_STEP, 2.0), directions=2, tolerance=1e-12, extension=dimension)
    solver.solve(instance.draw_weights(1.0))
    assert solver.num_directions == 2
    weights = instance.draw_weights(1.0)
    solver.solve(weights)
    best = dense_kkt(instance.hessian.numpy(), instance.gradient(weights).numpy(), 2.0, KL_STEP)
    np.testing.assert_allclose(solver.x.numpy(), best, rtol=1e-6, atol=1e-10)
    size = solver.num_directions
    solver.solve(weights)
    assert 2 < solver.num_directions == size <= dimension


def test_the_preconditioner_saves_most_products():
    """On a task's own observations and a network as it is initialised, to the same solution."""
    env = make_env("navigation", 3, 1000, seed=0)
    policy = JointPolicy(0, env.spec, NetworkSettings(hidden_sizes=(32, 32)), torch.Generator().manual_seed(8)).double()
    observations = torch.from_numpy(env.reset()[0]).double()
    generator = torch.Generator().manual_seed(9)
    actions = policy.distribution(observations).blocks[0].sample(generator).flatten(1)
    model = LinearizedPolicy(policy, observations, actions)
    weights = torch.randn(3, 1000, generator=generator, dtype=torch.float64)
    found = []
    for precondition in (lambda v: v, KroneckerPreconditioner(model.kronecker_factors(), DAMPING)):
        solver = RecycledSolver(
            model,
            StepRule(KL_STEP, 0.0),
            precondition,
            settings_of(500, tolerance=1e-3, extension=1),
        )
        solver.solve(weights)
        found.append((solver.num_directions, solver.x / solver.x.norm()))
    (plain, x), (preconditioned, same_x) = found
    assert 2 * preconditioned < plain < 500
    torch.testing.assert_close(same_x, x, rtol=0.0, atol=1e-3)


def test_a_zero_gradient_gives_a_zero_step(instance):
    weights = torch.zeros(instance.jacobian.shape[:2], dtype=torch.float64)
    for solver in (
        instance.recycled(StepRule(KL_STEP, 2.0), directions=3),
        ConjugateGradientSolver(instance.model, StepRule(KL_STEP, 2.0), settings_of(3)),
    ):
        assert torch.count_nonzero(solver.solve(weights)) == 0
        assert torch.count_nonzero(solver.x) == 0


def test_conjugate_gradients_solve_a_linear_system():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(12, dtype=torch.float64)
    target = torch.randn(12, generator=generator, dtype=torch.float64)
    solution = conjugate_gradients(lambda v: matrix @ v, target, 60)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, target), rtol=1e-8, atol=1e-10)


class Flat:
    """A linear model of two samples whose gradient is not zero, and whose Fisher matrix is `curvature` I."""

    num_samples = 2
    num_agents = 1

    def __init__(self, curvature: float) -> None:
        self.parameters = torch.ones(2)
        self._curvature = curvature

    def jvp(self, direction: torch.Tensor) -> torch.Tensor:
        return direction.unsqueeze(0)

    def vjp(self, weights: torch.Tensor) -> torch.Tensor:
        return weights[0] / 2

    def fisher(self, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._curvature * direction, direction.unsqueeze(0)


@pytest.mark.parametrize("curvature", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("damping", [0.0, 1e-45])
def test_a_fisher_matrix_that_is_not_positive_and_finite_gives_a_zero_step(curvature, damping):
    """As of policies that are certain of actions that were not theirs, where nothing is added to it."""
    settings = TrustRegionSettings(damping=damping if curvature else 0.0)
    rule = StepRule(KL_STEP, 0.0)
    for solver in (
        RecycledSolver(Flat(curvature), rule, lambda v: v, settings),
        ConjugateGradientSolver(Flat(curvature), rule, settings),
    ):
        assert torch.equal(solver.solve(torch.ones(1, 2)), torch.zeros(1, 2))
        assert torch.equal(solver.x, torch.zeros(2))
