"""The physics of the Multi-agent Particle Environment, for B worlds at once.

Step for step the arithmetic of `mpe2`'s `World` in float64, with the forces added in the same order. Entities are
agents, then landmarks, which are fixed, as all of mpe2's are. Arrays are laid out (coordinate, entity,
environment): the innermost axis is the batch, so that NumPy's loops are long whatever the number of agents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TIME_STEP = 0.1
"""Seconds that a step lasts."""
DAMPING = 0.25
"""Share of the velocity lost in a step."""
CONTACT_FORCE = 1e2
"""Force per unit of penetration."""
CONTACT_MARGIN = 1e-3
"""Width of the softened contact, k in `k log(1 + exp(-(d - d_min) / k))`."""

# At this distance beyond contact the force is below 2e-23, far under the rounding of anything it is added to.
_REACH = 50 * CONTACT_MARGIN


@dataclass(frozen=True)
class Agent:
    """The body of an agent.

    Attributes:
        radius: of its disc.
        movable: whether forces move it.
        collides: whether it pushes, and is pushed by, other colliding bodies.
        mass: what forces are divided by.
        force: of a full movement action.
        max_speed: what its speed is cut to after each step.
    """

    radius: float
    movable: bool = True
    collides: bool = True
    mass: float = 1.0
    force: float = 5.0
    max_speed: float = math.inf


@dataclass(frozen=True)
class Landmark:
    """A fixed body.

    Attributes:
        radius: of its disc.
        collides: whether it pushes colliding agents away.
    """

    radius: float
    collides: bool = False


@dataclass(frozen=True)
class Contacts:
    """The K pairs of colliding bodies close enough to push each other, over all environments.

    Attributes:
        first, second: (K,) the pair's entities as entity * B + environment; the first has the smaller id.
        delta: (2, K) position of the second relative to the first.
        distance: (K,) length of `delta`.
        gap: (K,) distance less the two radii: negative where the discs overlap.
        mutual: how many of the pairs are of two agents; they come first, the others are of an agent and a landmark.
    """

    first: np.ndarray
    second: np.ndarray
    delta: np.ndarray
    distance: np.ndarray
    gap: np.ndarray
    mutual: int


class ParticleWorld:
    """Positions and velocities of agents and landmarks in B worlds.

    Args:
        agents: the N agents.
        landmarks: the landmarks; E counts both.
        num_envs: B.

    Attributes:
        positions: (2, E, B) of all entities, float64.
        velocities: (2, N, B) of the agents.
        relative: (2, N, E, B), position of every entity relative to every agent.
        squared: (N, E, B), squared distance of every entity from every agent.
        contacts: the pairs of bodies in reach of each other.
    """

    def __init__(self, agents: Sequence[Agent], landmarks: Sequence[Landmark], num_envs: int) -> None:
        num_agents, entities = len(agents), len(agents) + len(landmarks)
        self.num_agents = num_agents
        self.num_envs = num_envs
        self.positions = np.zeros((2, entities, num_envs))
        self.velocities = np.zeros((2, num_agents, num_envs))
        self.relative = np.zeros((2, num_agents, entities, num_envs))
        self.squared = np.zeros((num_agents, entities, num_envs))
        self._squares = np.zeros((num_agents, entities, num_envs))
        self._forces = np.array([agent.force for agent in agents])[:, None]
        self._gains = np.array([TIME_STEP / agent.mass if agent.movable else 0.0 for agent in agents])[:, None]
        self._max_speeds = np.array([agent.max_speed for agent in agents])[:, None]
        self._limited = bool(np.isfinite(self._max_speeds).any())
        self._first, self._second = _colliding_pairs(agents, landmarks)
        self._mutual_pairs = int((self._second < num_agents).sum())
        self._pair_rows = self._first * entities + self._second
        bodies: list[Agent | Landmark] = [*agents, *landmarks]
        radii = np.array([body.radius for body in bodies])
        self._touching = radii[self._first] + radii[self._second]
        self._near = (self._touching[:, None] + _REACH) ** 2
        self.contacts = self._find_contacts()

    def place(self, positions: np.ndarray, velocities: np.ndarray | None = None) -> None:
        """Put every entity at `positions`, (2, E, B), moving with `velocities`, (2, N, B), or at rest."""
        self.positions[...] = positions
        self.velocities[...] = 0.0 if velocities is None else velocities
        self.measure()

    def advance(self, thrust: np.ndarray) -> None:
        """One time step; `thrust`, (2, N, B), is each agent's movement in units of its force, and is overwritten."""
        thrust *= self._forces
        self._add_contact_forces(thrust)
        self.positions[:, : self.num_agents] += self.velocities * TIME_STEP
        self.velocities *= 1 - DAMPING
        thrust *= self._gains
        self.velocities += thrust
        if self._limited:
            self._limit_speed()
        self.measure()

    def move_landmarks(self, landmarks: np.ndarray, envs: np.ndarray, positions: np.ndarray) -> None:
        """Put M non-colliding landmarks, (M,) ids from 0, of environments (M,), at `positions`, (2, M)."""
        entities = landmarks + self.num_agents
        self.positions[:, entities, envs] = positions
        relative = positions[:, None, :] - self.positions[:, : self.num_agents, envs]
        self.relative[:, :, entities, envs] = relative
        self.squared[:, entities, envs] = relative[0] * relative[0] + relative[1] * relative[1]

    def collisions(self) -> np.ndarray:
        """How many other colliding agents each agent overlaps: (N, B) int."""
        mutual = self.contacts.mutual
        hit = np.flatnonzero(self.contacts.gap[:mutual] < 0)
        ends = np.concatenate([self.contacts.first[hit], self.contacts.second[hit]])
        return np.bincount(ends, minlength=self.num_agents * self.num_envs).reshape(self.num_agents, self.num_envs)

    def measure(self) -> None:
        """Find distances and contacts again after a change of `positions`."""
        agents = self.positions[:, : self.num_agents, None, :]
        np.subtract(self.positions[:, None, :, :], agents, out=self.relative)
        np.multiply(self.relative[0], self.relative[0], out=self.squared)
        np.multiply(self.relative[1], self.relative[1], out=self._squares)
        self.squared += self._squares
        if self._first.size:
            self.contacts = self._find_contacts()

    def _add_contact_forces(self, force: np.ndarray) -> None:
        contacts = self.contacts
        if not contacts.first.size:
            return
        penetration = np.logaddexp(0.0, -(contacts.gap / CONTACT_MARGIN)) * CONTACT_MARGIN
        # Bodies at the very same point push each other nowhere, rather than by 0 / 0.
        distance = np.maximum(contacts.distance, np.finfo(np.float64).tiny)
        push = CONTACT_FORCE * contacts.delta / distance * penetration
        mutual = contacts.mutual
        # Second ends first: each agent then adds its pairs in the order of mpe2's double loop.
        for coordinate in range(2):
            flat = force[coordinate].reshape(-1)
            np.add.at(flat, contacts.second[:mutual], push[coordinate, :mutual])
            np.subtract.at(flat, contacts.first, push[coordinate])

    def _limit_speed(self) -> None:
        speeds = np.sqrt(self.velocities[0] * self.velocities[0] + self.velocities[1] * self.velocities[1])
        exceeding = speeds > self._max_speeds
        if not exceeding.any():
            return
        agent, env = np.nonzero(exceeding)
        directions = self.velocities[:, agent, env] / speeds[agent, env]
        self.velocities[:, agent, env] = directions * self._max_speeds[agent, 0]

    def _find_contacts(self) -> Contacts:
        num_envs = self.num_envs
        squared = self.squared.reshape(-1, num_envs).take(self._pair_rows, axis=0)
        near = np.flatnonzero(squared < self._near)
        pair, env = np.divmod(near, num_envs)
        distance = np.sqrt(squared.reshape(-1)[near])
        return Contacts(
            first=self._first[pair] * num_envs + env,
            second=self._second[pair] * num_envs + env,
            delta=self.relative.reshape(2, -1).take(self._pair_rows[pair] * num_envs + env, axis=1),
            distance=distance,
            gap=distance - self._touching[pair],
            mutual=int(near.searchsorted(self._mutual_pairs * num_envs)),
        )


def _colliding_pairs(agents: Sequence[Agent], landmarks: Sequence[Landmark]) -> tuple[np.ndarray, np.ndarray]:
    """The entities of every pair that can collide: the pairs of agents, then those of an agent and a landmark."""
    num_agents = len(agents)
    bodies: list[Agent | Landmark] = [*agents, *landmarks]
    collides = np.array([body.collides for body in bodies])
    first, second = np.triu_indices(len(collides), k=1)
    counted = collides[first] & collides[second] & (first < num_agents)
    first, second = first[counted], second[counted]
    mutual_first = np.argsort(second >= num_agents, kind="stable")
    return first[mutual_first], second[mutual_first]
