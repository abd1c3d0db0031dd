"""`mpe2`'s simple_spread_v3: cover the landmarks together, without colliding."""

from __future__ import annotations

import numpy as np

from matrpo.envs.family import variant_name
from matrpo.envs.particle.coverage import CoverageEnv
from matrpo.envs.particle.particle_env import movement_controls
from matrpo.spaces import TaskSpec

EPISODE_LENGTH = 25
LOCAL_RATIO = 0.5
"""Weight of an agent's own penalties in its reward; the rest is of the common covering."""
SILENCE = 2
"""Zeros in an observation for each other agent: what agents that cannot speak say."""


class SimpleSpreadEnv(CoverageEnv):
    """N agents cover N landmarks; every one is paid half the common covering and fined for its own collisions.

    Spaces, observations and rewards are those of `mpe2.simple_spread_v3` with its default arguments, and so is
    the length of an episode, 25 steps, after which it is truncated. With d(i, j) the distance from agent i to
    landmark j and k_q the number of other agents that agent q overlaps, agent q receives

        -0.5 sum_j min_i d(i, j) - 0.5 k_q

    Args:
        num_agents: N, at least 1.
        num_envs: B.
        seed: of the initial positions.
        continuous: whether actions are `Box`, as mpe2's `continuous_actions` are.
    """

    def __init__(self, num_agents: int, num_envs: int, seed: int, continuous: bool = False) -> None:
        spec = simple_spread_spec(num_agents, continuous)
        super().__init__(spec, movement_controls(num_agents, continuous), num_envs, seed)

    def _rewards(self) -> np.ndarray:
        world = self._world
        rewards = np.zeros((world.num_agents, world.num_envs))
        world.kernels.pay_spread(world.squared, world.contacts, world.depth, LOCAL_RATIO, rewards)
        return rewards.T


def simple_spread_spec(num_agents: int, continuous: bool = False) -> TaskSpec:
    """Agents and spaces of the task with `num_agents` agents (at least 1)."""
    return TaskSpec(
        name=variant_name("mpe2/simple_spread_v3", continuous),
        agents=tuple(f"agent_{q}" for q in range(num_agents)),
        observation_sizes=(4 * num_agents + 2 + SILENCE * (num_agents - 1),) * num_agents,
        action_spaces=movement_controls(num_agents, continuous).spaces,
        episode_length=EPISODE_LENGTH,
    )
