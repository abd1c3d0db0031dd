"""The critic's running moments never move its predictions, and it learns whatever the scale of its targets."""

import pytest
import torch

from matrpo.networks.critic import Critic
from matrpo.networks.sequences import Sequences
from matrpo.settings.sections import CriticSettings, NetworkSettings


def make_critic(seed=0, recurrent_layers=0):
    networks = NetworkSettings(hidden_sizes=(16, 16), recurrent_layers=recurrent_layers)
    return Critic(3, networks, CriticSettings(critic_lr=1e-2), torch.Generator().manual_seed(seed))


def values_of(critic, observations):
    """V of observations, (M, 3), by a critic without a memory."""
    values, _ = critic.values(observations.unsqueeze(0), torch.zeros(1, len(observations)), critic.initial_state(1))
    return values[0]


def draw(samples=500, seed=1):
    observations = torch.randn(samples, 3, generator=torch.Generator().manual_seed(seed))
    return observations, observations[:, 0] - 2.0 * observations[:, 1].abs()


def test_new_moments_do_not_move_the_predictions():
    critic = make_critic()
    observations, targets = draw()
    critic.fit(observations, targets, epochs=1, batch_size=100)
    before = values_of(critic, observations)
    critic._track(1e3 * targets + 1e4)
    assert critic.std > 100.0
    torch.testing.assert_close(values_of(critic, observations), before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-3, 5.0), (1e4, -1e5)])
def test_fits_targets_of_any_scale(scale, shift):
    critic = make_critic()
    observations, targets = draw()
    targets = scale * targets + shift
    for _ in range(5):
        loss = critic.fit(observations, targets, epochs=10, batch_size=50)
    assert loss < 0.05
    error = (values_of(critic, observations) - targets).square().mean() / targets.var()
    assert float(error) < 0.05


@pytest.mark.parametrize("longest", [None, 0.1])
@pytest.mark.parametrize("recurrent_layers", [0, 1])
@pytest.mark.parametrize("inputs", [8, 18, 40])
def test_a_fit_goes_the_way_of_adam_along_autograds_gradients(inputs, recurrent_layers, longest):
    """The layers become wider and narrower again: products are then taken in another order."""
    networks = NetworkSettings(hidden_sizes=(32, 64), recurrent_layers=recurrent_layers)
    settings = CriticSettings(critic_lr=1e-2, max_grad_norm=longest)
    fitted, expected = (Critic(inputs, networks, settings, torch.Generator().manual_seed(0)) for _ in range(2))
    samples = torch.randn(40, inputs, generator=torch.Generator().manual_seed(1))
    targets, starts = samples.sum(1), torch.zeros(10, 4, dtype=torch.bool)
    sequences = Sequences(starts, torch.zeros(1, 4, fitted.network.state_size)) if recurrent_layers else None
    fitted.fit(samples, targets, 3, len(samples), sequences)
    expected._track(targets)
    adam = torch.optim.Adam(expected.parameters(), lr=1e-2, foreach=False, fused=False)
    for _ in range(3):
        adam.zero_grad()
        values = expected.network(samples, sequences).squeeze(-1)
        (values - (targets - expected.mean) / expected.std).square().mean().backward()
        if longest is not None:
            torch.nn.utils.clip_grad_norm_(expected.parameters(), longest)
        adam.step()
    for left, right in zip(fitted.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-3)


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
    assert torch.isfinite(values_of(critic, observations)).all()


def test_fitting_depends_on_the_generator_alone():
    observations, targets = draw()
    first, second = make_critic(), make_critic()
    for critic in (first, second):
        critic.fit(observations, targets, epochs=2, batch_size=64)
    assert torch.equal(values_of(first, observations), values_of(second, observations))


RUN, ENVS, CHUNK = 40, 20, 4


def memory_task():
    """Observations (RUN, ENVS, 3), starts, and targets: what the first entry was two steps before, 0 where unknown."""
    generator = torch.Generator().manual_seed(3)
    observations = torch.randn(RUN, ENVS, 3, generator=generator)
    starts = torch.rand(RUN, ENVS, generator=generator) < 0.1
    targets = torch.zeros(RUN, ENVS)
    for t in range(2, RUN):
        known = ~(starts[t] | starts[t - 1])
        targets[t] = torch.where(known, observations[t - 2, :, 0], 0.0)
    return observations, starts, targets


@pytest.mark.parametrize(("recurrent_layers", "learns"), [(1, True), (0, False)])
def test_a_critic_with_a_memory_fits_what_was_seen_earlier_in_the_episode(recurrent_layers, learns):
    observations, starts, targets = memory_task()
    critic = make_critic(recurrent_layers=recurrent_layers)
    state = critic.initial_state(ENVS)
    for _ in range(15):
        values, states = critic.values(observations, starts, state)
        sequences = Sequences(starts, states[:-1:CHUNK]) if recurrent_layers else None
        critic.fit(observations.flatten(0, 1), targets.flatten(), epochs=10, batch_size=80, sequences=sequences)
    values, _ = critic.values(observations, starts, state)
    error = float((values - targets).square().mean() / targets.var())
    assert (error < 0.2) == learns, error


def test_minibatches_are_of_whole_segments_and_each_sample_is_seen_once_an_epoch(monkeypatch):
    observations, starts, targets = memory_task()
    critic = make_critic(recurrent_layers=1)
    _, states = critic.values(observations, starts, critic.initial_state(ENVS))
    seen, select = [], Sequences.select

    def recorded(sequences, segments):
        rows, part = select(sequences, segments)
        seen.append(rows)
        return rows, part

    monkeypatch.setattr(Sequences, "select", recorded)
    sequences = Sequences(starts, states[:-1:CHUNK])
    critic.fit(observations.flatten(0, 1), targets.flatten(), epochs=1, batch_size=82, sequences=sequences)
    assert {len(rows) for rows in seen} == {80}
    assert sorted(torch.cat(seen).tolist()) == list(range(RUN * ENVS))


def test_new_moments_leave_predicted_values_as_they_are():
    networks = NetworkSettings(hidden_sizes=(4,), activation="tanh")
    critic = Critic(2, networks, CriticSettings(), torch.Generator().manual_seed(0))
    observations, starts = torch.randn(5, 3, 2), torch.zeros(5, 3, dtype=torch.bool)
    before, _ = critic.values(observations, starts, critic.initial_state(3))
    critic.renormalise(torch.tensor(40.0, dtype=torch.float64), torch.tensor(1700.0, dtype=torch.float64))
    after, _ = critic.values(observations, starts, critic.initial_state(3))
    assert critic.std == pytest.approx(10.0)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
