"""Models of the others, fitted to what they did."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from dense import MIXED, draw_samples, make_policy, make_spec
from matrpo.decentralized.model_fitting import fit_models, negative_log_likelihood_gradients
from matrpo.networks.sequences import Sequences

OWN = 1


@pytest.fixture(params=[0, 1], ids=["feedforward", "recurrent"])
def case(request):
    """A policy of one agent, and samples of joint actions by one that differs in its last layer and log deviations."""
    spec = make_spec(MIXED, 4)
    policy = make_policy(spec, OWN, seed=0, recurrent_layers=request.param)
    truth, generator = deepcopy(policy), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (*truth.network.output_layer.parameters(), *truth.log_std):
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    sequences = None
    if request.param:
        states = torch.zeros(20, 30, policy.network.state_size, dtype=torch.float64)
        sequences = Sequences(torch.zeros(200, 30, dtype=torch.bool), states)
    return policy, truth, sequences, *draw_samples(spec, truth, 6000, 2, sequences)


def features(policy, sequences, observations):
    with torch.no_grad():
        return policy.network.features(observations, sequences)


def nll(policy, sequences, observations, actions):
    with torch.no_grad():
        return -policy.distribution(observations, None, sequences).log_prob(actions).mean(0)


def test_all_the_others_become_as_likely_as_they_can_and_the_own_head_stays_to_the_bit(case):
    policy, truth, *samples = case
    before, best = nll(policy, *samples), nll(truth, *samples)
    fit_models(policy, features(policy, *samples[:2]), samples[2], 60, torch.Generator().manual_seed(0))
    after = nll(policy, *samples)
    assert after[OWN] == before[OWN]
    for other in (n for n in range(len(MIXED)) if n != OWN):
        assert after[other] - best[other] < 0.1 * (before[other] - best[other])


def test_the_gradient_is_autograds(case):
    policy, _, sequences, observations, actions = case
    inputs, rows, layer = features(policy, sequences, observations), torch.arange(40), policy.network.output_layer
    log_prob = policy.distribution_of(layer(inputs[rows])).log_prob(actions[rows])
    others = [n for n in range(len(MIXED)) if n != OWN]
    loss = -log_prob[:, others].sum(1).mean()
    expected = torch.autograd.grad(loss, [layer.weight, layer.bias, *policy.log_std], materialize_grads=True)
    with torch.no_grad():
        found = negative_log_likelihood_gradients(policy, inputs[rows], actions[rows])
    torch.testing.assert_close(found, list(expected))


def test_the_features_are_what_the_last_layer_is_given(case):
    policy, _, sequences, observations, _ = case
    with torch.no_grad():
        given, outputs = features(policy, sequences, observations), policy.network(observations, sequences)
        torch.testing.assert_close(policy.network.output_layer(given), outputs, rtol=0, atol=0)
