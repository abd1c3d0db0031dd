"""What a rollout bootstraps from at the ends of episodes and of the iteration."""

import numpy as np
import pytest
import torch

from matrpo.envs.shared import AgentStep
from matrpo.rollout import Rollout
from matrpo.spaces import Discrete, TaskSpec

SPEC = TaskSpec("test", ("a",), (1,), (Discrete(2),))
GAMMA, LAMBDA = 0.9, 0.8


class IdentityCritic:
    """V(o) = o."""

    def values(self, observations: torch.Tensor) -> torch.Tensor:
        return observations[..., 0]


def make_step(observation, reward=0.0, terminated=False, truncated=False, final=None):
    return AgentStep(
        observation=np.float32([[observation]]),
        reward=np.float32([reward]),
        reward_scale=np.float32([2.0]),
        terminated=np.array([terminated]),
        truncated=np.array([truncated]),
        final_observation=None if final is None else np.float32([[final]]),
        joint_action=np.float32([[1.0]]),
        action_mask=None,
    )


def advantages_after(*steps):
    rollout = Rollout(0, SPEC, len(steps), 1)
    rollout.add_observation(make_step(1.0))
    for index, step in enumerate(steps):
        rollout.add_outcome(step)
        if index < len(steps) - 1:
            rollout.add_observation(step)
    return rollout.advantages(IdentityCritic(), GAMMA, LAMBDA)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flags", "bootstrap"), [({"truncated": True}, GAMMA * 5.0), ({"terminated": True}, 0.0)], ids=["cut", "over"]
)
def test_the_end_of_an_episode(flags, bootstrap):
    advantages, returns = advantages_after(make_step(7.0, 4.0, final=5.0, **flags), make_step(9.0, 6.0))
    last = 3.0 + GAMMA * 9.0 - 7.0
    first = 2.0 + bootstrap - 1.0
    assert advantages.tolist() == pytest.approx([first, last])
    assert returns.tolist() == pytest.approx([first + 1.0, last + 7.0])


def test_an_episode_that_goes_on_is_bootstrapped_from_the_next_observation():
    advantages, _ = advantages_after(make_step(7.0, 4.0), make_step(9.0, 6.0))
    last = 3.0 + GAMMA * 9.0 - 7.0
    assert advantages.tolist() == pytest.approx([2.0 + GAMMA * 7.0 - 1.0 + GAMMA * LAMBDA * last, last])
