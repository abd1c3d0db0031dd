"""Cooperative Treasure Collection, the paper's second task (its section VI.B.1, Table II and equation (23))."""

from __future__ import annotations

import numpy as np

from matrpo.envs.family import NOTHING, Family, both_actions, variant_name, wrong_agents
from matrpo.envs.particle.particle_env import movement_controls
from matrpo.envs.particle.treasure_hunt import TreasureHuntEnv, num_banks
from matrpo.spaces import TaskSpec

EPISODE_LENGTH = 100


class TreasureEnv(TreasureHuntEnv):
    """Hunters collect coloured treasures and bring them to the banks, and only the banks are paid for it.

    Of N agents, N // 4 and at least one are banks; the hunters come first, and there are as many treasures as
    hunters: the paper's 8 agents are 6 hunters and 2 banks, as in the environment that it takes the task from.
    An episode lasts 100 steps and is then truncated. The physics, and how treasures are taken, delivered and
    reappear, are those of `mpe2`'s `collect_treasure_v1`; everything random depends on (seed, environment, episode,
    number of the draw) alone.

    An agent observes its position and its velocity; each treasure's position relative to it and colour (one-hot),
    sorted by the distance from it, zeros for those that are away; the position relative to it of every other
    agent in the order of ids; and a hunter also the colour that it holds (one-hot, zeros if none). Actions: stay,
    left, right, down, up.

    After each step every bank receives (23),

        r_bank = 5 (sum_j 1_collect^j + sum_i 1_deposit^i) - 0.1 min_{j,k} {d(ht_j, tr_k) | hunter j is empty}

    with 1_collect^j = 1 if hunter j took a treasure in this step, 1_deposit^i = 1 if bank i received any, and the
    minimum over the hunters that are empty and the treasures that are not away after it, 0 if there are none.
    Hunter q receives -c_q, with c_q = 1 if it overlaps another hunter, else 0.

    Args:
        num_agents: N, at least 2.
        num_envs: B.
        seed: of positions and colours.
        continuous: whether actions are `Box`, as mpe2's `continuous_actions` are.
    """

    def __init__(self, num_agents: int, num_envs: int, seed: int, continuous: bool = False) -> None:
        spec = treasure_spec(num_agents, continuous)
        hunters = num_agents - num_banks(num_agents)
        super().__init__(spec, hunters, movement_controls(num_agents, continuous), num_envs, seed)

    def observe(self) -> list[np.ndarray]:
        return self._describe(self.kernels.describe_treasure)

    def _rewards(self) -> np.ndarray:
        rewards = np.empty((self.spec.num_agents, self.num_envs))
        self.kernels.pay_treasure(self._world.squared, self._holding, self._away, self._taken, self._delivered, rewards)
        return rewards.T


def treasure_spec(num_agents: int, continuous: bool = False) -> TaskSpec:
    """Agents and spaces of the task with `num_agents` agents (at least 2)."""
    name = variant_name("treasure", continuous)
    if num_agents < 2:
        raise wrong_agents(name, num_agents, "at least 2, a hunter and a bank")
    banks = num_banks(num_agents)
    hunters = num_agents - banks
    common = 4 + hunters * (2 + banks) + 2 * (num_agents - 1)
    return TaskSpec(
        name=name,
        agents=tuple([f"hunter_{j}" for j in range(hunters)] + [f"bank_{i}" for i in range(banks)]),
        observation_sizes=(common + banks,) * hunters + (common,) * banks,
        action_spaces=movement_controls(num_agents, continuous).spaces,
        episode_length=EPISODE_LENGTH,
    )


FAMILY = Family(
    pattern="treasure[-continuous]",
    description="cooperative treasure collection with private rewards",
    needs=NOTHING,
    tasks=both_actions(
        "treasure",
        "hunters bring treasures to the banks, only the banks are paid for it",
        default_agents=8,
        fixed=False,
        describe=treasure_spec,
        build=TreasureEnv,
    ),
)
