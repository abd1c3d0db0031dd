"""`mpe2`'s collect_treasure_v1: collectors bring treasures to deposits."""

from __future__ import annotations

import numpy as np

from matrpo.envs.family import variant_name, wrong_agents
from matrpo.envs.particle.particle_env import movement_controls
from matrpo.envs.particle.treasure_hunt import HUNTER_REACH, TreasureHuntEnv, num_banks
from matrpo.spaces import TaskSpec

EPISODE_LENGTH = 25
MAX_DEPOSITS = 6
"""Most deposits that the task can have: mpe2 has that many colours."""


class CollectTreasureEnv(TreasureHuntEnv):
    """Collectors and deposits, all of which are paid for every treasure taken or delivered, and for coming near.

    Spaces, observations and rewards are those of `mpe2.collect_treasure_v1`, with as many treasures as collectors,
    and so is the length of an episode, 25 steps, after which it is truncated. Of N agents, N // 4 and at least one
    are deposits; 8 agents are mpe2's default.

    An agent observes its position and velocity; a collector also what it holds (one-hot); then every other agent,
    sorted by the distance from it: relative position, velocity, the colour that it accepts (one-hot, a deposit's)
    and the colour that it holds (one-hot, a collector's); then every treasure, sorted likewise: relative position
    and colour (one-hot), zeros for those that are away.

    Everyone receives 5 for each treasure that was taken and each that was delivered in the step. A collector also
    receives -5 for each other collector that it overlaps, and -0.1 of its distance to the nearest treasure if it is
    empty, else to the deposit of what it holds. A deposit also receives -0.1 of its distance to the nearest
    collector that holds its colour or, if there is none, to the mean position of all collectors.

    Args:
        num_agents: N, 2 to 27.
        num_envs: B.
        seed: of positions and colours.
        continuous: whether actions are `Box`, as mpe2's `continuous_actions` are.
    """

    def __init__(self, num_agents: int, num_envs: int, seed: int, continuous: bool = False) -> None:
        spec = collect_treasure_spec(num_agents, continuous)
        collectors = num_agents - num_banks(num_agents)
        super().__init__(spec, collectors, movement_controls(num_agents, continuous), num_envs, seed)

    def observe(self) -> list[np.ndarray]:
        return self._describe(self.kernels.describe_collect)

    def _rewards(self) -> np.ndarray:
        events = 5.0 * (self._taken + self._delivered.sum(axis=0))
        rewards: np.ndarray = np.concatenate([self._collector_rewards(), self._deposit_rewards()]) + events
        return rewards.T

    def _collector_rewards(self) -> np.ndarray:
        collectors = np.arange(self._num_hunters)[:, None]
        to_deposit = np.sqrt(self._world.squared[collectors, self._num_hunters + self._holding, self._envs])
        to_treasure = np.sqrt(self._world.squared[: self._num_hunters, self.spec.num_agents :].min(axis=1))
        to_treasure[:, self._away.all(axis=0)] = 0.0
        distance = np.where(self._holding < 0, to_treasure, to_deposit)
        near = self._world.squared[: self._num_hunters, : self._num_hunters] < HUNTER_REACH
        rewards: np.ndarray = -5.0 * (near.sum(axis=1) - 1) - 0.1 * distance
        return rewards

    def _deposit_rewards(self) -> np.ndarray:
        world, collectors = self._world, self._num_hunters
        squared = world.squared[collectors : collectors + self._num_banks, :collectors]
        carriers = self._holding == np.arange(self._num_banks)[:, None, None]
        to_carrier = np.sqrt(np.where(carriers, squared, np.inf).min(axis=1))
        # Added up in order: `mean` rounds otherwise where there is one environment.
        centre = np.add.accumulate(world.positions[:, :collectors], axis=1)[:, -1:] / collectors
        to_centre = np.hypot(*(centre - world.positions[:, collectors : self.spec.num_agents]))
        rewards: np.ndarray = -0.1 * np.where(np.isinf(to_carrier), to_centre, to_carrier)
        return rewards


def collect_treasure_spec(num_agents: int, continuous: bool = False) -> TaskSpec:
    """Agents and spaces of the task with `num_agents` agents (2 to 27)."""
    name, deposits = variant_name("mpe2/collect_treasure_v1", continuous), num_banks(num_agents)
    if num_agents < 2 or deposits > MAX_DEPOSITS:
        raise wrong_agents(name, num_agents, "2 to 27")
    collectors = num_agents - deposits
    common = 4 + (num_agents - 1) * (4 + 2 * deposits) + collectors * (2 + deposits)
    return TaskSpec(
        name=name,
        agents=tuple([f"collector_{j}" for j in range(collectors)] + [f"deposit_{i}" for i in range(deposits)]),
        observation_sizes=(common + deposits,) * collectors + (common,) * deposits,
        action_spaces=movement_controls(num_agents, continuous).spaces,
        episode_length=EPISODE_LENGTH,
    )
