"""Distributions against torch's own, and samples against their probabilities."""

import math

import pytest
import torch

from matrpo.networks.distributions import MASKED, CategoricalBlock, FactoredBlock, GaussianBlock, by_column


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def categorical():
    logits = _random(6, 2, 4)
    reference = torch.distributions.Categorical(logits=logits)
    return CategoricalBlock(logits, torch.empty(2, 0, dtype=torch.float64)), reference


@pytest.fixture
def gaussian():
    mean, log_std = _random(6, 2, 3), 0.3 * _random(2, 3, seed=1)
    reference = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp().expand_as(mean)), 1)
    return GaussianBlock(mean, log_std), reference


def test_categorical_is_torchs(categorical):
    block, reference = categorical
    actions = torch.randint(0, 4, (6, 2, 1), generator=torch.Generator().manual_seed(2)).double()
    torch.testing.assert_close(block.log_prob(actions), reference.log_prob(actions[..., 0]))
    torch.testing.assert_close(block.entropy(), reference.entropy())
    logits = _random(6, 2, 4, seed=3)
    other = CategoricalBlock(logits, torch.empty(2, 0, dtype=torch.float64))
    expected = torch.distributions.kl_divergence(reference, torch.distributions.Categorical(logits=logits))
    torch.testing.assert_close(block.kl_to(other), expected)


def test_gaussian_is_torchs(gaussian):
    block, reference = gaussian
    actions = _random(6, 2, 3, seed=4)
    torch.testing.assert_close(block.log_prob(actions), reference.log_prob(actions))
    torch.testing.assert_close(block.entropy(), reference.entropy())
    mean, log_std = _random(6, 2, 3, seed=5), _random(2, 3, seed=6)
    normal = torch.distributions.Normal(mean, log_std.exp().expand_as(mean))
    expected = torch.distributions.kl_divergence(reference, torch.distributions.Independent(normal, 1))
    torch.testing.assert_close(block.kl_to(GaussianBlock(mean, log_std)), expected)


def test_categorical_samples_follow_the_probabilities_and_the_mask():
    logits = torch.tensor([MASKED, 0.0, 1.0, MASKED, -1.0]).expand(200_000, 1, 5)
    block = CategoricalBlock(logits, torch.empty(1, 0))
    actions = block.sample(torch.Generator().manual_seed(0))
    assert actions.shape == (200_000, 1, 1)
    frequencies = torch.bincount(actions.flatten().long(), minlength=5) / len(actions)
    torch.testing.assert_close(frequencies, block.probs[0, 0], rtol=0, atol=5e-3)
    assert frequencies[0] == frequencies[3] == 0
    assert block.mode().unique().tolist() == [2.0]


def test_gaussian_samples_have_the_moments():
    block = GaussianBlock(torch.tensor([[[1.0, -2.0]]]).expand(200_000, 1, 2), torch.tensor([[0.5, -1.0]]))
    actions = block.sample(torch.Generator().manual_seed(0))[:, 0]
    torch.testing.assert_close(actions.mean(0), torch.tensor([1.0, -2.0]), rtol=0, atol=0.02)
    torch.testing.assert_close(actions.std(0), torch.tensor([0.5, -1.0]).exp(), rtol=0.01, atol=0.0)
    assert torch.equal(block.mode(), block.mean)


def test_a_gaussian_stays_as_it_was_when_its_parameter_changes():
    log_std = torch.nn.Parameter(torch.zeros(1, 2))
    block = GaussianBlock(torch.zeros(3, 1, 2), log_std)
    with torch.no_grad():
        log_std.add_(1.0)
    moved = GaussianBlock(torch.zeros(3, 1, 2), log_std)
    expected = torch.full((3, 1), 2 * (1.0 + 0.5 * math.exp(-2.0) - 0.5))
    torch.testing.assert_close(block.kl_to(moved), expected)


def test_total_variation_is_exact_for_categoricals_and_bounded_for_gaussians():
    first, second = torch.tensor([[[0.7, 0.2, 0.1]]]), torch.tensor([[[0.1, 0.3, 0.6]]])
    free = torch.zeros(1, 0)
    variation = CategoricalBlock(first.log(), free).total_variation_to(CategoricalBlock(second.log(), free))
    torch.testing.assert_close(variation, torch.tensor([[0.6]]))
    for distance in (0.05, 0.5, 1.0):
        here, there = (GaussianBlock(torch.full((1, 1, 1), m), torch.zeros(1, 1)) for m in (0.0, distance))
        exact = math.erf(distance / (2 * math.sqrt(2.0)))
        assert exact < float(here.total_variation_to(there)) < 1.4 * exact
    far = GaussianBlock(torch.full((1, 1, 1), 9.0), torch.zeros(1, 1))
    assert float(far.total_variation_to(here)) == 1.0


SIZES = (3, 2, 4)


def _factored(seed):
    """Factors of 3, 2 and 4 choices in two heads, and the same distributions of their 24 combinations."""
    logits = _random(6, 2, 9, seed=seed)
    a, b, c = torch.split(logits, list(SIZES), dim=-1)
    combined = (a[..., :, None, None] + b[..., None, :, None] + c[..., None, None, :]).flatten(-3)
    free = torch.empty(2, 0, dtype=torch.float64)
    return FactoredBlock(logits, free, SIZES), CategoricalBlock(combined, free), logits


def test_factors_are_the_categorical_distribution_of_their_combinations():
    (block, product, _), (other, other_product, _) = _factored(0), _factored(1)
    for index in range(24):
        choices = torch.stack(torch.unravel_index(torch.full((6, 2), index), SIZES), dim=-1).double()
        combination = torch.full((6, 2, 1), float(index), dtype=torch.float64)
        torch.testing.assert_close(block.log_prob(choices), product.log_prob(combination))
    torch.testing.assert_close(block.entropy(), product.entropy())
    torch.testing.assert_close(block.kl_to(other), product.kl_to(other_product))
    exact = product.total_variation_to(other_product)
    assert (exact <= block.total_variation_to(other)).all()
    assert (block.total_variation_to(other) <= 1.0).all()
    best = torch.stack(torch.unravel_index(product.mode()[..., 0].long(), SIZES), dim=-1).double()
    assert torch.equal(block.mode(), best)
    rows = torch.tensor([4, 1])
    torch.testing.assert_close(block.select(rows).entropy(), block.entropy()[rows])


def test_the_total_variation_is_exact_where_one_factor_changes():
    logits = _random(6, 1, 5)
    moved = logits.clone()
    moved[..., :3] = _random(6, 1, 3, seed=1)
    free = torch.empty(1, 0, dtype=torch.float64)
    first, second = (FactoredBlock(values, free, (3, 2)) for values in (logits, moved))
    alone, moved_alone = (CategoricalBlock(values[..., :3], free) for values in (logits, moved))
    torch.testing.assert_close(first.total_variation_to(second), alone.total_variation_to(moved_alone))


def test_scores_and_fisher_products_of_factors_are_autograds():
    block, _, logits = _factored(0)
    actions = block.sample(torch.Generator().manual_seed(2))
    tangent, weights, free = _random(6, 2, 9, seed=3), _random(6, 2, seed=4), torch.empty(2, 0, dtype=torch.float64)

    def log_prob(values):
        return FactoredBlock(values, free, SIZES).log_prob(actions)

    _, score = torch.autograd.functional.jvp(log_prob, logits, tangent)
    torch.testing.assert_close(block.score(actions, tangent, free), score)
    _, cotangent = torch.autograd.functional.vjp(log_prob, logits, weights)
    torch.testing.assert_close(block.score_transpose(actions, weights)[0], cotangent)
    _, product = torch.autograd.functional.hvp(
        lambda values: block.kl_to(FactoredBlock(values, free, SIZES)).sum(), logits, tangent
    )
    torch.testing.assert_close(block.fisher(tangent, free)[0], product)


def test_samples_of_factors_follow_their_probabilities_and_masks():
    logits = torch.tensor([MASKED, 0.0, 1.0, 0.5, MASKED]).expand(50_000, 1, 5)
    actions = FactoredBlock(logits, torch.empty(1, 0), (3, 2)).sample(torch.Generator().manual_seed(0))
    assert actions.shape == (50_000, 1, 2)
    first = torch.bincount(actions[:, 0, 0].long(), minlength=3) / len(actions)
    expected = torch.tensor([0.0, 1.0, math.e]) / (1.0 + math.e)
    torch.testing.assert_close(first, expected, rtol=0, atol=8e-3)
    assert not actions[..., 1].any()


def test_one_factor_is_a_categorical_distribution_to_the_bit():
    free, tangent, weights = torch.empty(2, 0), torch.randn(6, 2, 4), torch.randn(6, 2)
    one, other = _random(6, 2, 4).float(), _random(6, 2, 4, seed=1).float()
    plain = [CategoricalBlock(values, free) for values in (one, other)]
    factored = [FactoredBlock(values, free, (4,)) for values in (one, other)]
    actions = [block[0].sample(torch.Generator().manual_seed(0)) for block in (plain, factored)]
    assert torch.equal(*actions)
    results = []
    for (a, b), acted in zip((plain, factored), actions, strict=True):
        found = [a.mode(), a.log_prob(acted), a.entropy(), a.kl_to(b), a.total_variation_to(b)]
        found += [a.score(acted, tangent, free), *a.score_transpose(acted, weights), *a.fisher(tangent, free)]
        results.append(found)
    for value, wanted in zip(*results, strict=True):
        assert torch.equal(value, wanted)


@pytest.mark.parametrize("actions", [1, 2, 5, 20])
def test_of_outputs_stored_by_column_everything_is_as_of_others(actions):
    outputs = _random(7, actions, seed=8).requires_grad_()
    by_rows = CategoricalBlock(outputs.unsqueeze(1), torch.empty(1, 0))
    by_columns = CategoricalBlock(by_column(outputs).unsqueeze(1), torch.empty(1, 0))
    assert by_columns.log_probs[:, 0].T.is_contiguous()
    torch.testing.assert_close(by_columns.log_probs, by_rows.log_probs, rtol=1e-14, atol=1e-14)
    weights = _random(7, 1, seed=9)
    gradients = [torch.autograd.grad((b.entropy() * weights).sum(), outputs)[0] for b in (by_rows, by_columns)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("actions", [2, 5, 16, 17])
def test_log_probabilities_of_many_samples_are_those_of_each(actions):
    logits = (5.0 * _random(300, 3, actions, seed=12)).requires_grad_()
    many = CategoricalBlock(logits, torch.empty(3, 0)).log_probs
    assert many.is_contiguous()
    each = torch.cat([CategoricalBlock(row.unsqueeze(0), torch.empty(3, 0)).log_probs for row in logits])
    torch.testing.assert_close(many, each, rtol=1e-14, atol=1e-14)
    weights = _random(300, 3, actions, seed=13)
    gradients = [torch.autograd.grad((found * weights).sum(), logits)[0] for found in (many, each)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_categorical_samples_are_torchs_inversion_to_the_bit(dtype):
    block = CategoricalBlock(3.0 * _random(5000, 3, 6, seed=10).to(dtype), torch.empty(3, 0, dtype=dtype))
    cumulative = block.probs.cumsum(-1)
    draws = torch.rand(5000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = (cumulative <= (draws * cumulative[..., -1]).unsqueeze(-1)).sum(-1, keepdim=True).to(dtype)
    assert torch.equal(block.sample(torch.Generator().manual_seed(1)), expected)
