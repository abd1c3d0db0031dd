"""The linearised policy's products against autograd's dense Jacobian and Hessian."""

import pytest
import torch

import matrpo.networks.linearized_policy
from dense import FACTORS, MIXED, dense_hessian, dense_jacobian, draw_samples, make_policy, make_spec
from matrpo.networks.joint_policy import group_heads
from matrpo.networks.linearized_policy import LinearizedPolicy
from matrpo.networks.mlp import ACTIVATIONS
from matrpo.spaces import Box, Discrete


@pytest.fixture(params=[(name, False) for name in sorted(ACTIVATIONS)] + [("tanh", True), ("relu", True)], ids=str)
def hidden_function(request):
    return request.param


@pytest.fixture(params=[MIXED, (Discrete(5),) * 3, (Box(2, -1.0, 1.0),) * 2], ids=["mixed", "discrete", "box"])
def linearised(request, hidden_function, monkeypatch):
    """A linearisation over several chunks, with its dense J (N, M, D) and H (D, D)."""
    monkeypatch.setattr(matrpo.networks.linearized_policy, "CHUNK", 56)
    monkeypatch.setattr(matrpo.networks.linearized_policy, "FEWEST", 1)
    spec = make_spec(request.param, 4)
    policy = make_policy(spec, agent_id=1, seed=3, activation=hidden_function[0], normalize=hidden_function[1])
    observations, actions = draw_samples(spec, policy, samples=17, seed=5)
    model = LinearizedPolicy(policy, observations, actions)
    return model, dense_jacobian(policy, observations, actions), dense_hessian(policy, observations)


def _random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(11), dtype=torch.float64)


def test_jvp_is_the_jacobian_times_a_direction(linearised):
    model, jacobian, _ = linearised
    direction = _random(jacobian.shape[-1])
    torch.testing.assert_close(model.jvp(direction), jacobian @ direction, rtol=1e-10, atol=1e-12)


def test_vjp_is_the_mean_of_the_transposed_jacobian(linearised):
    model, jacobian, _ = linearised
    weights = _random(*jacobian.shape[:2])
    expected = torch.einsum("nmd,nm->d", jacobian, weights) / jacobian.shape[1]
    torch.testing.assert_close(model.vjp(weights), expected, rtol=1e-10, atol=1e-12)


def test_fisher_product_is_the_hessian_of_the_mean_kl_and_brings_the_jvp(linearised):
    model, jacobian, hessian = linearised
    direction = _random(jacobian.shape[-1])
    product, ratios = model.fisher(direction)
    torch.testing.assert_close(product, hessian @ direction, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(ratios, jacobian @ direction, rtol=1e-10, atol=1e-12)


def test_the_distribution_stays_as_parameters_change():
    spec = make_spec(MIXED, 4)
    policy = make_policy(spec, agent_id=1, seed=3)
    observations, actions = draw_samples(spec, policy, samples=12, seed=5)
    model = LinearizedPolicy(policy, observations, actions)
    expected = policy.distribution(observations).log_prob(actions)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.1
    torch.testing.assert_close(model.distribution.log_prob(actions), expected)


def test_products_are_counted(linearised):
    model, jacobian, _ = linearised
    direction = _random(jacobian.shape[-1])
    model.fisher(direction)
    model.jvp(direction)
    model.vjp(_random(*jacobian.shape[:2]))
    assert (model.fisher_products, model.jacobian_products) == (1, 2)


def test_a_mask_removes_actions_of_the_own_head_alone():
    spec = make_spec(MIXED, 4)
    policy = make_policy(spec, agent_id=1, seed=3)
    observations, actions = draw_samples(spec, policy, samples=12, seed=5)
    mask = torch.ones(12, 3, dtype=torch.bool)
    mask[:, 2] = False
    mask[::2, 0] = False
    actions[:, 1] = 1.0

    masked, free = policy.distribution(observations, mask), policy.distribution(observations)
    assert torch.equal(masked.blocks[0].probs[:, 1] > 0, mask)
    torch.testing.assert_close(masked.blocks[0].probs[:, 0], free.blocks[0].probs[:, 0])

    model = LinearizedPolicy(policy, observations, actions, mask)
    direction = _random(model.parameters.numel())
    product, ratios = model.fisher(direction)
    torch.testing.assert_close(product, dense_hessian(policy, observations, mask) @ direction, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(ratios, dense_jacobian(policy, observations, actions, mask) @ direction)
    assert set(
        policy.own_head_of(policy.network(observations), mask)
        .sample(torch.Generator().manual_seed(0))
        .unique()
        .tolist()
    ) <= {
        0.0,
        1.0,
    }


def test_a_mask_covers_every_factor_of_the_own_head_and_products_are_autograds():
    spec = make_spec(FACTORS, 4)
    policy = make_policy(spec, agent_id=1, seed=3)
    observations, _ = draw_samples(spec, policy, samples=12, seed=5)
    mask = torch.tensor([[True, False, True, True, False]] * 12)
    head = policy.own_head_of(policy.network(observations), mask)
    drawn = {tuple(row) for _ in range(9) for row in head.sample(torch.Generator().manual_seed(0))[:, 0].tolist()}
    assert drawn <= {(0.0, 0.0), (2.0, 0.0)}
    generator = torch.Generator().manual_seed(0)
    actions = torch.cat([b.sample(generator).flatten(1) for b in policy.distribution(observations, mask).blocks], dim=1)
    model = LinearizedPolicy(policy, observations, actions, mask)
    direction = _random(model.parameters.numel())
    product, ratios = model.fisher(direction)
    torch.testing.assert_close(product, dense_hessian(policy, observations, mask) @ direction, rtol=1e-9, atol=1e-10)
    jacobian = dense_jacobian(policy, observations, actions, mask)
    torch.testing.assert_close(ratios, jacobian @ direction)
    torch.testing.assert_close(model.jvp(direction), ratios)
    weights = _random(*jacobian.shape[:2])
    torch.testing.assert_close(model.vjp(weights), torch.einsum("nmd,nm->d", jacobian, weights) / 12)


def test_own_head_is_the_acting_agents_part_of_the_joint_model():
    spec = make_spec(MIXED, 4)
    for agent_id in range(len(MIXED)):
        policy = make_policy(spec, agent_id, seed=agent_id)
        observations, actions = draw_samples(spec, policy, samples=6, seed=1)
        own = actions[:, spec.action_slices[agent_id]].unsqueeze(1)
        expected = policy.distribution(observations).log_prob(actions)[:, agent_id]
        torch.testing.assert_close(policy.own_head_of(policy.network(observations)).log_prob(own)[:, 0], expected)


def test_heads_are_grouped_where_spaces_repeat():
    groups = group_heads(MIXED)
    assert [(g.first, g.count) for g in groups] == [(0, 2), (2, 1), (3, 1), (4, 1)]
    assert [(g.outputs.start, g.outputs.stop) for g in groups] == [(0, 6), (6, 8), (8, 12), (12, 13)]
    assert [(g.actions.start, g.actions.stop) for g in groups] == [(0, 2), (2, 4), (4, 5), (5, 6)]
