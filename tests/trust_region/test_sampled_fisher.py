"""The Fisher matrix of a share of the samples: products and solutions against dense references."""

from __future__ import annotations

import pytest
import torch

from dense import MIXED, dense_hessian, dense_jacobian, draw_samples, make_policy, make_spec
from matrpo.errors import ConfigError
from matrpo.networks.linearized_policy import LinearizedPolicy
from matrpo.networks.sequences import Sequences
from matrpo.settings.config import resolve
from matrpo.settings.sections import TrustRegionSettings
from matrpo.trust_region.sampled_fisher import SampledFisher, linearize
from matrpo.trust_region.solvers import make_preconditioner, make_solver
from matrpo.trust_region.step_rule import StepRule

SAMPLES = 40
EVERY_FIFTH = torch.arange(0, SAMPLES, 5)
STEPS, ENVS, CHUNKS = 6, 4, 2


def directions(size: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_products_are_of_the_share_and_gradients_of_all_samples() -> None:
    policy = make_policy(make_spec(MIXED, 3), agent_id=2, seed=8)
    observations, actions = draw_samples(make_spec(MIXED, 3), policy, SAMPLES, seed=9)
    model = linearize(policy, observations, actions, None, None, 0.2)
    assert isinstance(model, SampledFisher)
    jacobian = dense_jacobian(policy, observations, actions)
    hessian = dense_hessian(policy, observations[EVERY_FIFTH])
    for direction in directions(len(hessian)):
        product, ratios = model.fisher(direction)
        assert ratios is None
        torch.testing.assert_close(product, hessian @ direction)
        torch.testing.assert_close(model.jvp(direction), jacobian @ direction)
    weights = directions(SAMPLES, model.num_agents)
    torch.testing.assert_close(model.vjp(weights), torch.einsum("nmd,nm->d", jacobian, weights) / SAMPLES)
    assert (model.fisher_products, model.jacobian_products) == (3, 4)


@pytest.mark.parametrize("solver", ["recycled", "cg"])
def test_a_solver_solves_with_the_fisher_matrix_of_the_share(solver: str) -> None:
    policy = make_policy(make_spec(MIXED, 3), agent_id=2, seed=8)
    observations, actions = draw_samples(make_spec(MIXED, 3), policy, SAMPLES, seed=9)
    model = linearize(policy, observations, actions, None, None, 0.2)
    size = len(model.parameters)
    settings = TrustRegionSettings(damping=0.05, solver=solver, cg_iterations=3 * size, solver_tolerance=1e-12)
    rule = StepRule(0.01, 0.0)
    weights = directions(SAMPLES, model.num_agents)
    ratios = make_solver(model, rule, make_preconditioner(model, settings), settings).solve(weights)
    jacobian = dense_jacobian(policy, observations, actions)
    hessian = dense_hessian(policy, observations[EVERY_FIFTH]) + 0.05 * torch.eye(size, dtype=torch.float64)
    gradient = torch.einsum("nmd,nm->d", jacobian, weights) / SAMPLES
    solution = torch.linalg.solve(hessian, gradient)
    expected = jacobian @ (solution * rule(float(gradient @ solution)))
    torch.testing.assert_close(ratios, expected, rtol=1e-5, atol=1e-8)


def test_a_recurrent_policy_has_the_share_of_whole_environments() -> None:
    spec = make_spec(MIXED, 3)
    policy = make_policy(spec, 1, 3, "tanh", (4,), 1)
    starts = torch.zeros(STEPS, ENVS, dtype=torch.bool)
    starts[0, 1] = starts[2, 2] = starts[4, 0] = True
    generator = torch.Generator().manual_seed(12)
    states = torch.randn(CHUNKS, ENVS, policy.network.state_size, generator=generator, dtype=torch.float64)
    sequences = Sequences(starts, states)
    observations, actions = draw_samples(spec, policy, STEPS * ENVS, 5, sequences)
    model = linearize(policy, observations, actions, None, sequences, 0.5)
    assert isinstance(model, SampledFisher)
    rows = (torch.arange(STEPS).unsqueeze(1) * ENVS + torch.tensor([0, 2])).flatten()
    share = Sequences(starts[:, [0, 2]], states[:, [0, 2]])
    expected = LinearizedPolicy(policy, observations[rows], actions[rows], None, share)
    for direction in directions(len(model.parameters)):
        torch.testing.assert_close(model.fisher(direction)[0], expected.fisher(direction)[0])


@pytest.mark.parametrize(("share", "samples"), [(1.0, SAMPLES), (0.99, SAMPLES), (0.001, 1), (0.26, 10)])
def test_a_share_has_one_sample_at_least_and_all_at_most(share: float, samples: int) -> None:
    policy = make_policy(make_spec(MIXED, 3), agent_id=2, seed=8)
    observations, actions = draw_samples(make_spec(MIXED, 3), policy, SAMPLES, seed=9)
    model = linearize(policy, observations, actions, None, None, share)
    if samples == SAMPLES:
        assert isinstance(model, LinearizedPolicy)
    else:
        rows = torch.arange(samples) * SAMPLES // samples
        direction = directions(len(model.parameters))[0]
        hessian = dense_hessian(policy, observations[rows])
        torch.testing.assert_close(model.fisher(direction)[0], hessian @ direction)


def test_settings_name_the_number_of_samples() -> None:
    settings = {"num_envs": 4, "rollout_length": 10}
    assert resolve(("test", settings)).fisher_share == 1.0
    assert resolve(("test", settings | {"fisher_samples": 8})).fisher_share == 0.2
    with pytest.raises(ConfigError, match=r"'fisher_samples'.*at most the 40 samples"):
        resolve(("test", settings | {"fisher_samples": 41}))
