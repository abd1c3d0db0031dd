"""The Kronecker-factored preconditioner against dense inverses."""

import pytest
import torch

from dense import FACTORS, MIXED, draw_samples, make_policy, make_spec
from matrpo.networks.linearized_policy import LinearizedPolicy
from matrpo.networks.mlp import MLP, LinearizedMLP
from matrpo.settings.sections import NetworkSettings
from matrpo.spaces import Box
from matrpo.trust_region.preconditioner import KroneckerPreconditioner


def test_it_applies_the_damped_inverse_of_the_kronecker_product():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    cotangents = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    network = MLP((4, 3), NetworkSettings(), generator).double()
    factors = LinearizedMLP(network, inputs).kronecker_factors(cotangents)
    (a, g) = factors[0]
    torch.testing.assert_close(g, cotangents.T @ cotangents)
    vector = torch.randn(15, generator=generator, dtype=torch.float64)
    weight, bias = vector[:12].view(3, 4), vector[12:]
    block = torch.cat([weight, bias[:, None]], dim=1).reshape(-1)
    dense = torch.kron(g, a) + 0.3 * torch.eye(15, dtype=torch.float64)
    expected = torch.linalg.solve(dense, block).view(3, 5)
    found = KroneckerPreconditioner(factors, 0.3)(vector)
    torch.testing.assert_close(found, torch.cat([expected[:, :4].reshape(-1), expected[:, 4]]))


def test_factors_are_the_fisher_matrix_of_a_layer_whose_inputs_do_not_vary():
    """With one observation, drawn actions enough, and one layer, A (x) G is the Fisher matrix itself."""
    generator = torch.Generator().manual_seed(1)
    network = MLP((4, 3), NetworkSettings(), generator).double()
    inputs = torch.randn(1, 4, generator=generator, dtype=torch.float64).expand(30, 4)
    cotangents = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    linearized = LinearizedMLP(network, inputs)
    rows = torch.stack([LinearizedMLP(network, inputs[:1]).vjp(c[None]) for c in cotangents])
    (a, g) = linearized.kronecker_factors(cotangents)[0]
    dense = rows.T @ rows
    weights = torch.kron(g, a[:4, :4] / 30)
    torch.testing.assert_close(dense[:12, :12], weights)
    torch.testing.assert_close(dense[12:, 12:], g * a[4, 4] / 30)


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_it_is_symmetric_and_positive_definite(damping):
    """Else conjugate gradients would not be."""
    spec = make_spec(MIXED, 3)
    policy = make_policy(spec, agent_id=2, seed=8)
    model = LinearizedPolicy(policy, *draw_samples(spec, policy, 40, seed=9))
    precondition = KroneckerPreconditioner(model.kronecker_factors(), damping)
    matrix = torch.stack([precondition(row) for row in torch.eye(model.parameters.numel(), dtype=torch.float64)])
    torch.testing.assert_close(matrix, matrix.T)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > 0.0


@pytest.mark.parametrize("spaces", [MIXED, FACTORS])
def test_the_last_layer_keeps_heads_and_their_factors_apart(spaces):
    spec = make_spec(spaces, 3)
    policy = make_policy(spec, agent_id=0, seed=3)
    model = LinearizedPolicy(policy, *draw_samples(spec, policy, 40, seed=4))
    last = model.kronecker_factors()[-1][1]
    sizes = [n for space in spaces for n in ([space.size] if isinstance(space, Box) else space.sizes)]
    start = 0
    for size in sizes:
        inside = slice(start, start + size)
        assert float(last[inside, inside].diagonal().min()) > 0.0
        outside = last[inside].clone()
        outside[:, inside] = 0.0
        assert not outside.any()
        start += size
