"""Cooperative Navigation, the paper's first task (its section VI.B.1 and Table I)."""

from __future__ import annotations

import numpy as np

from matrpo.envs.family import NOTHING, Family, both_actions, variant_name
from matrpo.envs.particle.coverage import CoverageEnv
from matrpo.envs.particle.particle_env import movement_controls
from matrpo.spaces import TaskSpec

EPISODE_LENGTH = 100


class NavigationEnv(CoverageEnv):
    """N agents learn to cover N landmarks and not to collide, and only agent 0 is paid for the covering.

    An episode lasts 100 steps and is then truncated. Agents and landmarks start uniformly in [-1, 1]^2, the
    agents at rest; initial positions depend on (seed, environment, episode) alone. An agent observes 4N + 2
    numbers: its velocity, its position, the position relative to it of every landmark, and of every other agent
    in the order of ids. Actions: stay, left, right, down, up. The physics are those of `mpe2`'s
    `simple_spread_v3`.

    With d(i, j) the distance from agent i to landmark j and c_q = 1 if agent q overlaps another agent, else 0,
    the rewards after each step are

        r^0 = -sum_j min_i d(i, j) - c_0        r^q = -c_q for q > 0

    Table I prints min_{i,j} d(i, j) for the first term. The paper's Fig. 2 speaks of "the proximity of any agent
    to each landmark" and the task that it modifies sums over the landmarks; only with the sum is the team return
    of untrained agents about -263 an episode at N = 3, so the sum is what is meant.

    Args:
        num_agents: N, at least 1.
        num_envs: B.
        seed: of the initial positions.
        continuous: whether actions are `Box`, as mpe2's `continuous_actions` are.
    """

    def __init__(self, num_agents: int, num_envs: int, seed: int, continuous: bool = False) -> None:
        super().__init__(
            navigation_spec(num_agents, continuous), movement_controls(num_agents, continuous), num_envs, seed
        )

    def _rewards(self) -> np.ndarray:
        world = self._world
        rewards = np.zeros((world.num_agents, world.num_envs))
        world.kernels.pay_navigation(world.squared, world.contacts, world.depth, rewards)
        return rewards.T


def navigation_spec(num_agents: int, continuous: bool = False) -> TaskSpec:
    """Agents and spaces of the task with `num_agents` agents (at least 1)."""
    return TaskSpec(
        name=variant_name("navigation", continuous),
        agents=tuple(f"agent_{q}" for q in range(num_agents)),
        observation_sizes=(4 * num_agents + 2,) * num_agents,
        action_spaces=movement_controls(num_agents, continuous).spaces,
        episode_length=EPISODE_LENGTH,
    )


FAMILY = Family(
    pattern="navigation[-continuous]",
    description="cooperative navigation with private rewards",
    needs=NOTHING,
    tasks=both_actions(
        "navigation",
        "N agents cover N landmarks, only the first is paid for it",
        default_agents=12,
        fixed=False,
        describe=navigation_spec,
        build=NavigationEnv,
    ),
)
