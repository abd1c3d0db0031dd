"""Local steps of both kinds of consensus, against dense linear algebra in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from matrpo.decentralized.local_steps import AdmmSteps, AveragedGradients, make_local_steps
from matrpo.decentralized.shared_samples import SharedSamples
from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.linearized_policy import LinearizedPolicy
from matrpo.settings.config import resolve
from matrpo.spaces import Box, Discrete, TaskSpec
from matrpo.trust_region.solvers import make_preconditioner, make_solver
from matrpo.trust_region.step_rule import StepRule, make_step_rule

SAMPLES = 60
DAMPING = 0.1
RULE = StepRule(0.01, 0.0)
SPACES = (Discrete(3), Box(2, -1.0, 1.0))


class Problem:
    """A linearised policy of two agents with its dense J and H, and advantages."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        spec = TaskSpec("test", ("a", "b"), (4, 4), SPACES)
        policy = JointPolicy(0, spec, resolve(("test", {"hidden_sizes": [5]})), generator).double()
        observations = torch.randn(SAMPLES, 4, dtype=torch.float64, generator=generator)
        actions = torch.cat(
            [torch.randint(3, (SAMPLES, 1), generator=generator), torch.randn(SAMPLES, 2, generator=generator)], 1
        ).double()
        self.model = LinearizedPolicy(policy, observations, actions)
        self.advantages = torch.randn(SAMPLES, dtype=torch.float64, generator=generator)
        self.size = self.model.parameters.numel()
        basis = torch.eye(self.size, dtype=torch.float64)
        self.jacobian = torch.stack([self.model.jvp(e) for e in basis], dim=-1)
        self.hessian = torch.stack([self.model.fisher(e)[0] for e in basis], dim=-1) + DAMPING * basis

    def gradient(self, weights):
        return torch.einsum("nmd,nm->d", self.jacobian, torch.as_tensor(weights).expand(2, -1)) / SAMPLES

    def steps(self, **changes):
        exact = {"damping": DAMPING, "step_damping": None, "cg_iterations": 200, "solver_tolerance": 1e-12}
        config = resolve(("test", {**exact, **changes}))
        return make_local_steps(self.model, RULE, self.advantages, config)


@pytest.fixture(scope="module")
def problem():
    return Problem()


@pytest.fixture
def term():
    return np.random.default_rng(1).normal(size=(2, SAMPLES))


@pytest.mark.parametrize("solver", ["recycled", "cg"])
def test_averaged_are_the_log_ratios_of_the_own_natural_gradient(problem, term, solver):
    steps = problem.steps(consensus="averaging", solver=solver)
    assert isinstance(steps, AveragedGradients)
    own = problem.jacobian @ torch.linalg.solve(problem.hessian, problem.gradient(problem.advantages))
    everything = SharedSamples(SAMPLES)
    np.testing.assert_allclose(steps.step(0.0 * term, everything), own, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(steps.step(term, everything), own.numpy() + term, rtol=1e-7, atol=1e-9)

    gradient = problem.gradient(own.numpy() + term)
    direction = torch.linalg.solve(problem.hessian, gradient)
    length = torch.sqrt(2 * RULE.kl_step / (gradient @ direction))
    np.testing.assert_allclose(steps.change(), length * direction, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("solver", ["recycled", "cg"])
@pytest.mark.parametrize("consensus", ["admm", "averaging"])
def test_the_step_at_the_end_may_have_a_damping_of_its_own(problem, term, consensus, solver):
    settings = {"consensus": consensus, "solver": solver}
    steps, plain = (problem.steps(**settings, **more) for more in ({"step_damping": 3.0}, {}))
    everything = SharedSamples(SAMPLES)
    sent = plain.step(term, everything)
    np.testing.assert_array_equal(steps.step(term, everything), sent)
    gradient = problem.gradient(sent if consensus == "averaging" else problem.advantages.numpy() + term)
    damped = problem.hessian + (3.0 - DAMPING) * torch.eye(problem.size, dtype=torch.float64)
    direction = torch.linalg.solve(damped, gradient)
    length = torch.sqrt(2 * RULE.kl_step / (gradient @ direction))
    np.testing.assert_allclose(steps.change(), length * direction, rtol=1e-6, atol=1e-9)


def test_the_step_at_the_end_goes_to_the_boundary_where_admms_local_steps_do_not(problem, term):
    slack = make_step_rule(RULE.kl_step, 1e3, resolve(("test", {})))
    config = resolve(("test", {"damping": DAMPING, "step_damping": 1.0, "cg_iterations": 200}))
    steps = make_local_steps(problem.model, slack, problem.advantages, config)
    steps.step(term, SharedSamples(SAMPLES))
    change = steps.change()
    damped = problem.hessian + (1.0 - DAMPING) * torch.eye(problem.size, dtype=torch.float64)
    assert float(change @ damped @ change) / 2 == pytest.approx(RULE.kl_step, rel=0.05)


def test_averaging_on_some_samples_exchanges_those_and_weighs_them_for_all(problem, term):
    shared = SharedSamples(SAMPLES, np.arange(0, SAMPLES, 3))
    part = term[:, ::3].copy()
    steps = problem.steps(consensus="averaging")
    own = steps.step(0.0 * term, SharedSamples(SAMPLES)).copy()
    np.testing.assert_allclose(steps.step(part, shared), own[:, ::3] + part)
    weights = own.copy()
    weights[:, ::3] += 3 * part
    direction = torch.linalg.solve(problem.hessian, problem.gradient(weights)).numpy()
    change = steps.change().numpy()
    np.testing.assert_allclose(change / np.linalg.norm(change), direction / np.linalg.norm(direction), atol=1e-7)


def test_fisher_products_of_averaging_are_limited_for_each_of_its_two_solves(problem, term):
    before = problem.model.fisher_products
    steps = problem.steps(consensus="averaging", cg_iterations=3)
    assert problem.model.fisher_products == before + 3
    for _ in range(5):
        steps.step(term, SharedSamples(SAMPLES))
    assert problem.model.fisher_products == before + 3
    steps.change()
    assert problem.model.fisher_products == before + 6


def test_averaging_without_an_advantage_changes_nothing(problem):
    steps = make_local_steps(
        problem.model, RULE, torch.zeros(SAMPLES, dtype=torch.float64), resolve(("test", {"consensus": "averaging"}))
    )
    assert not steps.step(np.zeros((2, SAMPLES)), SharedSamples(SAMPLES)).any()
    assert not steps.change().any()


def test_a_step_of_admm_is_the_solvers(problem, term):
    steps, everything = problem.steps(), SharedSamples(SAMPLES)
    assert isinstance(steps, AdmmSteps)
    config = resolve(("test", {"damping": DAMPING, "cg_iterations": 200, "solver_tolerance": 1e-12}))
    solver = make_solver(problem.model, RULE, make_preconditioner(problem.model, config), config)
    expected = solver.solve(problem.advantages + torch.from_numpy(term)).numpy()
    np.testing.assert_array_equal(steps.step(term, everything), expected)
    np.testing.assert_array_equal(steps.change(), solver.x)
