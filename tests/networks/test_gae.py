"""GAE against its definition (18)-(19), and at the ends of episodes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matrpo.networks.gae import generalized_advantages

SHAPE = (7, 3)
NUMBERS = hnp.arrays(np.float64, SHAPE, elements=st.floats(-10, 10))
FLAGS = hnp.arrays(bool, SHAPE)


@given(rewards=NUMBERS, values=NUMBERS, following=NUMBERS, terminated=FLAGS, truncated=FLAGS)
def test_advantages_are_the_discounted_sum_of_errors_within_an_episode(
    rewards, values, following, terminated, truncated
):
    gamma, gae_lambda = 0.9, 0.8
    tensors = [torch.from_numpy(a) for a in (rewards, values, following, terminated, truncated)]
    found = generalized_advantages(*tensors, gamma, gae_lambda)
    for b in range(SHAPE[1]):
        for t in range(SHAPE[0]):
            expected, factor = 0.0, 1.0
            for s in range(t, SHAPE[0]):
                bootstrap = 0.0 if terminated[s, b] else gamma * following[s, b]
                expected += factor * (rewards[s, b] + bootstrap - values[s, b])
                if terminated[s, b] or truncated[s, b]:
                    break
                factor *= gamma * gae_lambda
            assert float(found[t, b]) == pytest.approx(expected, abs=1e-9)


def test_lambda_one_gives_returns_and_lambda_zero_gives_errors():
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(5, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    following = torch.cat([values[1:], torch.ones(1, 2, dtype=torch.float64)])
    never = torch.zeros(5, 2, dtype=torch.bool)
    monte_carlo = generalized_advantages(rewards, values, following, never, never, 0.9, 1.0) + values
    expected = torch.ones(2, dtype=torch.float64)
    for t in reversed(range(5)):
        expected = rewards[t] + 0.9 * expected
        torch.testing.assert_close(monte_carlo[t], expected)
    errors = generalized_advantages(rewards, values, following, never, never, 0.9, 0.0)
    torch.testing.assert_close(errors, rewards + 0.9 * following - values)
