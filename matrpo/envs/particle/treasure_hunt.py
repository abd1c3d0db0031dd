"""Hunters, banks and treasures: the world of Cooperative Treasure Collection and `collect_treasure`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from matrpo.envs import counter_rng
from matrpo.envs.particle.particle_env import Controls, ParticleEnv, nearest_first
from matrpo.envs.particle.physics import Agent, Landmark, ParticleWorld
from matrpo.spaces import TaskSpec

HUNTER = Agent(radius=0.05, collides=False, force=1.5, max_speed=1.0)
BANK = Agent(radius=0.075, collides=False, mass=2.25, force=1.5, max_speed=1.0)
TREASURE = Landmark(radius=0.025)
TREASURE_BOUND = 0.95
"""Treasures appear in [-0.95, 0.95]^2."""

_AWAY = -999.0
_NOTHING = -1
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
    """

    def __init__(self, spec: TaskSpec, num_hunters: int, controls: Controls, num_envs: int, seed: int) -> None:
        self._num_hunters = num_hunters
        self._num_banks = spec.num_agents - num_hunters
        self._num_treasures = num_hunters
        bodies = [HUNTER] * num_hunters + [BANK] * self._num_banks
        world = ParticleWorld(bodies, [TREASURE] * self._num_treasures, num_envs)
        super().__init__(spec, world, seed, draws=2 * spec.num_agents + 3 * self._num_treasures)
        self._controls = controls
        self._holding = np.full((num_hunters, num_envs), _NOTHING, dtype=np.int64)
        self._colours = np.zeros((self._num_treasures, num_envs), dtype=np.int64)
        self._away = np.zeros((self._num_treasures, num_envs), dtype=bool)
        self._state |= {"holding": self._holding, "colours": self._colours, "away": self._away}
        self._taken = np.zeros(num_envs, dtype=np.int64)
        self._delivered = np.zeros((self._num_banks, num_envs), dtype=np.int64)
        self._touching = np.zeros((self._num_treasures, num_hunters, num_envs), dtype=bool)
        observers = np.arange(spec.num_agents)[:, None, None]
        envs = np.arange(num_envs)
        entities = spec.num_agents + self._num_treasures
        self._envs = envs
        self._agent_rows = observers * entities * num_envs + envs
        self._treasure_rows = self._agent_rows + spec.num_agents * num_envs
        self._bank_ids = np.arange(self._num_banks, dtype=np.int16)[:, None, None]

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
        self._holding[...] = _NOTHING
        self._away[...] = False

    def _act(self, joint_action: np.ndarray) -> None:
        self._world.advance(self._controls.thrust(joint_action))
        returning = np.nonzero(self._away)
        self._take_treasures()
        self._return_treasures(*returning)
        self._deliver()

    def _take_treasures(self) -> None:
        """Each treasure in turn goes to the first empty hunter that touches it."""
        world = self._world
        squared = world.squared[: self._num_hunters, self.spec.num_agents :].transpose(1, 0, 2)
        np.less(squared, (HUNTER.radius + TREASURE.radius) ** 2, out=self._touching)
        treasure, hunter, env = np.unravel_index(np.flatnonzero(self._touching), self._touching.shape)
        empty = self._holding[hunter, env] < 0
        treasure, hunter, env = treasure[empty], hunter[empty], env[empty]
        self._taken[...] = 0
        while env.size:
            # The touch that comes first both for its treasure and for its hunter happens; its rivals do not.
            first = _first_of_each(treasure * self.num_envs + env) & _first_of_each(hunter * self.num_envs + env)
            taken, taker, where = treasure[first], hunter[first], env[first]
            self._holding[taker, where] = self._colours[taken, where]
            self._away[taken, where] = True
            world.move_landmarks(taken, where, np.full((2, len(where)), _AWAY))
            np.add.at(self._taken, where, 1)
            open_to = (self._holding[hunter, env] < 0) & ~self._away[treasure, env]
            treasure, hunter, env = treasure[open_to], hunter[open_to], env[open_to]

    def _return_treasures(self, treasure: np.ndarray, env: np.ndarray) -> None:
        """Put the treasures that were away, (M,) ids and environments, at new places in new colours."""
        if not env.size:
            return
        first = self._draws + 3 * (self._time * self._num_treasures + treasure)
        draws = counter_rng.uniform(self._seed, self._first + env, np.full_like(env, self._episode), 3, first)
        self._world.move_landmarks(treasure, env, TREASURE_BOUND * (2 * draws[:2] - 1))
        self._colours[treasure, env] = self._num_banks * draws[2]
        self._away[treasure, env] = False

    def _deliver(self) -> None:
        """Hunters that touch the bank of what they hold give it away."""
        hunter, env = np.nonzero(self._holding >= 0)
        bank = self._holding[hunter, env]
        near = self._world.squared[hunter, self._num_hunters + bank, env] < (HUNTER.radius + BANK.radius) ** 2
        hunter, bank, env = hunter[near], bank[near], env[near]
        self._holding[hunter, env] = _NOTHING
        self._delivered[...] = 0
        np.add.at(self._delivered, (bank, env), 1)

    def _overlaps(self) -> np.ndarray:
        """How many other hunters each hunter overlaps: (H, B)."""
        near = self._world.squared[: self._num_hunters, : self._num_hunters] < (2 * HUNTER.radius) ** 2
        overlaps: np.ndarray = near.sum(axis=1) - 1
        return overlaps

    def _nearest_treasure(self) -> np.ndarray:
        """Each hunter's distance to the nearest treasure that is not away: (H, B); infinite if all are."""
        squared = self._world.squared[: self._num_hunters, self.spec.num_agents :].min(axis=1)
        nearest: np.ndarray = np.sqrt(squared)
        nearest[:, self._away.all(axis=0)] = np.inf
        return nearest

    def _kinds(self) -> list[tuple[np.ndarray, slice]]:
        """The table's blocks of the hunters and of the banks, and which agents those are."""
        agents = (slice(0, self._num_hunters), slice(self._num_hunters, None))
        return list(zip(self._table.blocks, agents, strict=True))

    def _describe_selves(self, holding: int) -> None:
        """Write each agent's position and velocity into rows 0 to 3, what a hunter holds from row `holding` on."""
        own = slice(0, self.spec.num_agents)
        for block, agents in self._kinds():
            block[:, 0:2] = self._world.positions[:, own].transpose(1, 0, 2)[agents]
            block[:, 2:4] = self._world.velocities.transpose(1, 0, 2)[agents]
        held = self._table.blocks[0][:, holding : holding + self._num_banks]
        held[...] = self._holding[:, None, :] == self._bank_ids[:, :, 0]

    def _describe_treasures(self, first: Sequence[int]) -> None:
        """Write the sorted treasures into the hunters' rows from `first[0]` on, and the banks' from `first[1]` on."""
        relative, colours = self._sorted_treasures()
        width = 2 + self._num_banks
        for (block, agents), row in zip(self._kinds(), first, strict=True):
            rows = block[:, row : row + self._num_treasures * width]
            treasures = rows.reshape(len(block), self._num_treasures, width, self.num_envs)
            treasures[:, :, :2] = relative[:, agents].transpose(1, 2, 0, 3)
            treasures[:, :, 2:] = colours[:, agents].transpose(1, 2, 0, 3)

    def _sorted_treasures(self) -> tuple[np.ndarray, np.ndarray]:
        """The treasures by their distance from each agent, those that are away last and all zeros.

        Returns:
            relative positions, (2, N, T, B), and colours, (K, N, T, B) bool, true at the treasure's own.
        """
        order = nearest_first(self._world.squared[:, self.spec.num_agents :]) * self.num_envs
        relative = self._world.relative.reshape(2, -1).take(order + self._treasure_rows, axis=1)
        shown = np.where(self._away, _NOTHING, self._colours).astype(np.int16)
        colours = shown.reshape(-1).take(order + self._envs)
        if self._away.any():
            relative[:, colours < 0] = 0.0
        return relative, colours == self._bank_ids[:, :, :, None]


def num_banks(num_agents: int) -> int:
    """How many of the agents are banks: a quarter, and at least one."""
    return max(1, num_agents // 4)


def _first_of_each(values: np.ndarray) -> np.ndarray:
    """Where a value appears for the first time: (M,) bool."""
    first = np.zeros(len(values), dtype=bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first
