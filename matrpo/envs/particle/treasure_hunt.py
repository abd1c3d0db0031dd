"""Hunters, banks and treasures: the world of Cooperative Treasure Collection and `collect_treasure`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from matrpo.envs import counter_rng
from matrpo.envs.particle import kernels
from matrpo.envs.particle.particle_env import Controls, ParticleEnv
from matrpo.envs.particle.physics import Agent, Landmark, ParticleWorld
from matrpo.spaces import TaskSpec

HUNTER = Agent(radius=0.05, collides=False, force=1.5, max_speed=1.0)
BANK = Agent(radius=0.075, collides=False, mass=2.25, force=1.5, max_speed=1.0)
TREASURE = Landmark(radius=0.025)
TREASURE_BOUND = 0.95
"""Treasures appear in [-0.95, 0.95]^2."""

TREASURE_REACH = (HUNTER.radius + TREASURE.radius) ** 2
HUNTER_REACH = (2 * HUNTER.radius) ** 2
BANK_REACH = (HUNTER.radius + BANK.radius) ** 2
"""Squared distances below which a hunter touches a treasure, another hunter, a bank."""
AWAY = -999.0
"""Both coordinates of a treasure that is away."""
NOTHING = -1
"""The colour of nothing."""
_COLOURS = ("blue", "orange", "green", "red", "purple", "brown")


class TreasureHuntEnv(ParticleEnv):
    """H hunters bring treasures of K colours to the K banks, each of which takes one colour, as in `mpe2`.

    Agents, the hunters first, start uniformly in [-1, 1]^2 at rest, H treasures uniformly in [-0.95, 0.95]^2 in
    random colours. After each step, in the order of their ids: an empty hunter that touches a treasure takes it, and
    the treasure is away for this one step; treasures that were away reappear at random places in random colours;
    a hunter that touches the bank of the colour that it holds is empty again. Bodies do not push each other.

    Args:
        spec: of the task.
        num_hunters: H; the other agents are the banks.
        controls: what the actions mean.
        num_envs: B.
        seed: of positions and colours.

    Attributes:
        kernels: the loops over treasures, `treasure_compiled` or `treasure_numpy`.
    """

    def __init__(self, spec: TaskSpec, num_hunters: int, controls: Controls, num_envs: int, seed: int) -> None:
        self._num_hunters = num_hunters
        self._num_banks = spec.num_agents - num_hunters
        self._num_treasures = num_hunters
        bodies = [HUNTER] * num_hunters + [BANK] * self._num_banks
        world = ParticleWorld(bodies, [TREASURE] * self._num_treasures, num_envs)
        super().__init__(spec, world, seed, draws=2 * spec.num_agents + 3 * self._num_treasures)
        self.kernels = kernels.load("treasure")
        self._controls = controls
        self._holding = np.full((num_hunters, num_envs), NOTHING, dtype=np.int64)
        self._colours = np.zeros((self._num_treasures, num_envs), dtype=np.int64)
        self._away = np.zeros((self._num_treasures, num_envs), dtype=bool)
        self._state |= {"holding": self._holding, "colours": self._colours, "away": self._away}
        self._taken = np.zeros(num_envs, dtype=np.int64)
        self._delivered = np.zeros((self._num_banks, num_envs), dtype=np.int64)
        self._envs = np.arange(num_envs)

    def render(self) -> np.ndarray:
        """Environment 0 now, (350, 350, 3) uint8.

        Banks are large and in their colour, treasures small and in theirs; a hunter wears the colour that it holds.
        """
        n = self.spec.num_agents
        agents, treasures = np.split(self._world.positions[:, :, 0], [n], axis=1)
        present = np.flatnonzero(~self._away[:, 0])
        canvas = self._canvas(np.concatenate([agents, treasures[:, present]], axis=1), BANK.radius + 0.05)
        for bank in range(self._num_banks):
            canvas.disc(agents[:, self._num_hunters + bank], BANK.radius, _COLOURS[bank % len(_COLOURS)])
        for hunter in range(self._num_hunters):
            held = self._holding[hunter, 0]
            canvas.disc(agents[:, hunter], HUNTER.radius, "grey" if held < 0 else _COLOURS[held % len(_COLOURS)])
        for treasure in present:
            canvas.disc(treasures[:, treasure], TREASURE.radius, _COLOURS[self._colours[treasure, 0] % len(_COLOURS)])
        return canvas.image()

    def _begin(self, draws: np.ndarray) -> None:
        n, treasures = self.spec.num_agents, self._num_treasures
        agents, places, colours = np.split(draws, [2 * n, 2 * (n + treasures)])
        positions = np.empty_like(self._world.positions)
        positions[:, :n] = 2 * agents.reshape(2, n, -1) - 1
        positions[:, n:] = TREASURE_BOUND * (2 * places.reshape(2, treasures, -1) - 1)
        self._world.place(positions)
        self._colours[...] = self._num_banks * colours
        self._holding[...] = NOTHING
        self._away[...] = False

    def _act(self, joint_action: np.ndarray) -> None:
        world, treasures = self._world, (self._colours, self._away)
        measured = (world.positions, world.squared)
        world.advance(self._controls.thrust(joint_action))
        returning = self._away.copy()
        self._taken[...] = 0
        self._delivered[...] = 0
        self.kernels.take_treasures(self._holding, *treasures, *measured, self._taken)
        if returning.any():
            first = self._draws + 3 * self._time * self._num_treasures
            key = np.array([self._seed & counter_rng.MASK, self._first, self._episode, first], dtype=np.uint64)
            self.kernels.return_treasures(returning, self._num_banks, key, *treasures, *measured)
        self.kernels.deliver(self._holding, world.squared, self._delivered)

    def _describe(self, write: Callable[..., None]) -> list[np.ndarray]:
        """The observations that one of the kernels writes."""
        world, hunters, sizes = self._world, self._num_hunters, self.spec.observation_sizes
        observations: list[np.ndarray] = []
        for first, agents in ((0, hunters), (hunters, self._num_banks)):
            block = np.empty((agents, self.num_envs, sizes[first]), dtype=np.float32)
            write(
                first,
                world.positions,
                world.velocities,
                world.squared.view(np.int64),
                self._holding,
                self._colours,
                self._away,
                block,
            )
            observations.extend(block)
        return observations


def num_banks(num_agents: int) -> int:
    """How many of the agents are banks: a quarter, and at least one."""
    return max(1, num_agents // 4)
