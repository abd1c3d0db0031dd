"""The critic's running moments never move its predictions, and it learns whatever the scale of its targets."""

import pytest
import torch

from matrpo.critic import Critic


def make_critic(seed=0):
    return Critic(3, (16, 16), "selu", 1e-2, torch.Generator().manual_seed(seed))


def draw(samples=500, seed=1):
    observations = torch.randn(samples, 3, generator=torch.Generator().manual_seed(seed))
    return observations, observations[:, 0] - 2.0 * observations[:, 1].abs()


def test_new_moments_do_not_move_the_predictions():
    critic = make_critic()
    observations, targets = draw()
    critic.fit(observations, targets, epochs=1, batch_size=100)
    before = critic.values(observations)
    critic._track(1e3 * targets + 1e4)
    assert critic.std > 100.0
    torch.testing.assert_close(critic.values(observations), before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-3, 5.0), (1e4, -1e5)])
def test_fits_targets_of_any_scale(scale, shift):
    critic = make_critic()
    observations, targets = draw()
    targets = scale * targets + shift
    for _ in range(5):
        loss = critic.fit(observations, targets, epochs=10, batch_size=50)
    assert loss < 0.05
    error = (critic.values(observations) - targets).square().mean() / targets.var()
    assert float(error) < 0.05


def test_moments_are_those_of_the_first_batch_then_follow():
    critic = make_critic()
    _, targets = draw()
    critic._track(targets)
    assert float(critic.mean) == pytest.approx(float(targets.mean()), rel=1e-5)
    assert critic.std == pytest.approx(float(targets.std(correction=0)), rel=1e-4)
    for _ in range(60):
        critic._track(targets + 7.0)
    assert float(critic.mean) == pytest.approx(float(targets.mean()) + 7.0, rel=1e-4)


def test_constant_targets_stay_finite():
    critic = make_critic()
    observations, targets = draw()
    critic.fit(observations, torch.zeros_like(targets), epochs=2, batch_size=100)
    assert torch.isfinite(critic.values(observations)).all()


def test_fitting_depends_on_the_generator_alone():
    observations, targets = draw()
    first, second = make_critic(), make_critic()
    for critic in (first, second):
        critic.fit(observations, targets, epochs=2, batch_size=64)
    assert torch.equal(first.values(observations), second.values(observations))
