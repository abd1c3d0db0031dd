"""Distributions against torch's own, and samples against their probabilities."""

import math

import pytest
import torch

from matrpo.networks.distributions import MASKED, CategoricalBlock, GaussianBlock


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
