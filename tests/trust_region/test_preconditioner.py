"""The Kronecker-factored preconditioner against dense inverses."""

import pytest
import torch
from torch import Tensor

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
    other = KroneckerPreconditioner(factors, 0.9)
    for precondition in (KroneckerPreconditioner(factors, 0.3), other.with_damping(0.3)):
        torch.testing.assert_close(precondition(vector), torch.cat([expected[:, :4].reshape(-1), expected[:, 4]]))
    torch.testing.assert_close(other(vector), KroneckerPreconditioner(factors, 0.9)(vector), rtol=0.0, atol=0.0)


def test_of_a_wide_layer_the_second_moments_are_a_diagonal():
    """An image's would not fit into memory."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(5, 70_000, generator=generator)
    cotangents = torch.randn(5, 2, generator=generator, dtype=torch.float32)
    network = MLP((70_000, 2), NetworkSettings(), generator)
    ((a, g),) = LinearizedMLP(network, inputs).kronecker_factors(cotangents)
    torch.testing.assert_close(a, torch.cat([inputs.square().sum(0), torch.tensor([5.0])]))
    vector = torch.randn(2 * 70_001, generator=generator)
    found = KroneckerPreconditioner([(a, g)], 0.3)(vector)
    columns = torch.cat([vector[:140_000].view(2, 70_000), vector[140_000:, None]], dim=1)
    expected = [torch.linalg.solve(float(a[n]) * g + 0.3 * torch.eye(2), columns[:, n]) for n in (0, 777, 70_000)]
    torch.testing.assert_close(found[[0, 70_000]], expected[0])
    torch.testing.assert_close(found[[777, 70_777]], expected[1])
    torch.testing.assert_close(found[140_000:], expected[2])


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
    """Else conjugate gradients would not be. To rounding: without damping its entries reach 1e13."""
    spec = make_spec(MIXED, 3)
    policy = make_policy(spec, agent_id=2, seed=8)
    model = LinearizedPolicy(policy, *draw_samples(spec, policy, 40, seed=9))
    precondition = KroneckerPreconditioner(model.kronecker_factors(), damping)
    matrix = torch.stack([precondition(row) for row in torch.eye(model.parameters.numel(), dtype=torch.float64)])
    rounding = 1e-12 * float(matrix.abs().max())
    torch.testing.assert_close(matrix, matrix.T, rtol=0.0, atol=rounding)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > (0.0 if damping else -rounding)


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


KINDS = ("sparse", "one-hot", "low rank", "constant", "diagonal", "zero")
SCALES = (1e-38, 1e-30, 1e-19, 1.0, 1e10, 1e19, 1e30, 1e38)


def draw_second_moments(kind: str, size: int, scale: float, generator: torch.Generator) -> Tensor:
    """The second moments of 60 samples of `size` numbers, float32, the largest of them about `scale`."""
    samples = {
        "sparse": (torch.rand(60, size, generator=generator) < 0.3).float()
        * (torch.rand(size, generator=generator) < 0.2),
        "one-hot": torch.eye(size)[torch.randint(size, (60,), generator=generator)],
        "low rank": torch.randn(60, 2, generator=generator) @ torch.randn(2, size, generator=generator),
        "constant": torch.randn(60, 1, generator=generator).expand(60, size),
        "diagonal": (torch.rand(size, generator=generator) < 0.5).float().diag(),
        "zero": torch.zeros(60, size),
    }[kind]
    moments = samples.double().T @ samples.double()
    return (moments / moments.max().clamp_min(1e-12) * scale).float()


def check_every_factor_works(count: int, most: int, seed: int) -> None:
    """Any finite factors make a preconditioner that leaves vectors finite and is positive definite."""
    generator = torch.Generator().manual_seed(seed)

    def pick(number: int) -> int:
        return int(torch.randint(number, (), generator=generator))

    for number in range(count):
        kinds, scales = (KINDS[number % 6], KINDS[pick(6)]), (SCALES[number % 8], SCALES[pick(8)])
        a, g = (
            draw_second_moments(kind, 1 + pick(most), scale, generator)
            for kind, scale in zip(kinds, scales, strict=True)
        )
        assert a.isfinite().all()
        assert g.isfinite().all()
        precondition = KroneckerPreconditioner([(a, g)], damping=(0.0, 0.1)[pick(2)])
        vector = torch.randn(len(a) * len(g) + 3, generator=generator)
        found = precondition(vector)
        assert found.isfinite().all(), (kinds, scales, a.shape, g.shape)
        assert float(vector.double() @ found.double()) > 0.0, (kinds, scales, a.shape, g.shape)


def test_no_factor_is_beyond_it():
    check_every_factor_works(count=240, most=100, seed=0)


@pytest.mark.slow
def test_no_factor_of_ten_thousand_is_beyond_it():
    check_every_factor_works(count=10_000, most=150, seed=1)


def test_a_sparse_factor_is_inverted_as_a_dense_one_is():
    """Of observations that are mostly 0, as in grid worlds, on which float32 drivers of LAPACK give up."""
    generator = torch.Generator().manual_seed(3)
    for size in (90, 136, 150):
        a, g = draw_second_moments("sparse", size, 1.0, generator), draw_second_moments("low rank", 2, 1.0, generator)
        vector = torch.randn(2 * size, generator=generator)
        block = torch.cat([vector[: 2 * (size - 1)].view(2, -1), vector[2 * (size - 1) :, None]], dim=1).double()
        dense = torch.kron(g.double(), a.double()) + 0.1 * torch.eye(2 * size, dtype=torch.float64)
        expected = torch.linalg.solve(dense, block.reshape(-1)).view(2, size)
        found = KroneckerPreconditioner([(a, g)], 0.1)(vector).double()
        torch.testing.assert_close(found[: 2 * (size - 1)].view(2, -1), expected[:, :-1], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found[2 * (size - 1) :], expected[:, -1], rtol=1e-3, atol=1e-4)


def test_where_no_eigenvectors_are_to_be_had_the_diagonal_does(monkeypatch):
    def fails(_):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    a, g = torch.tensor([[2.0, 1.0], [1.0, 4.0]]), torch.tensor([[3.0]])
    found = KroneckerPreconditioner([(a, g)], 0.5)(torch.ones(2))
    torch.testing.assert_close(found, torch.tensor([1 / 6.5, 1 / 12.5]))
