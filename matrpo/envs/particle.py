"""The physics of the Multi-agent Particle Environment, for B worlds at once.

Step for step the arithmetic of `mpe2`'s `World` in float64, with the forces added in the same order, for worlds
of movable agents that collide with each other and fixed landmarks that collide with nothing. Arrays are laid out
(coordinate, entity, environment): the innermost axis is the batch, so that NumPy's loops are long whatever the
number of agents. Entities are the agents, then the landmarks.
"""

from __future__ import annotations

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
SENSITIVITY = 5.0
"""Force of a movement action."""
NUM_MOVES = 5
"""Movement actions: stay, left, right, down, up."""

_MOVES = SENSITIVITY * np.array([[0.0, -1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, -1.0, 1.0]])
# At this distance beyond contact the force is below 2e-23, far under the rounding of anything it is added to.
_REACH = 50 * CONTACT_MARGIN


@dataclass(frozen=True)
class Contacts:
    """The K pairs of agents close enough to push each other, over all environments.

    Attributes:
        first, second: (K,) the pair's agents as agent * B + environment; the first has the smaller id.
        delta: (2, K) position of the first relative to the second.
        distance: (K,) length of `delta`.
    """

    first: np.ndarray
    second: np.ndarray
    delta: np.ndarray
    distance: np.ndarray


class ParticleWorld:
    """Positions and velocities of agents and landmarks in B worlds.

    Attributes:
        positions: (2, E, B) of all entities, float64.
        velocities: (2, N, B) of the agents.
        relative: (2, N, E, B), position of every entity relative to every agent.
        squared: (N, E, B), squared distance of every entity from every agent.
        contacts: the pairs of agents in reach of each other.
    """

    def __init__(self, num_agents: int, num_landmarks: int, agent_size: float, num_envs: int) -> None:
        entities = num_agents + num_landmarks
        self.num_agents = num_agents
        self.num_envs = num_envs
        self.contact_distance = 2 * agent_size
        self.positions = np.zeros((2, entities, num_envs))
        self.velocities = np.zeros((2, num_agents, num_envs))
        self.relative = np.zeros((2, num_agents, entities, num_envs))
        self._first, self._second = np.triu_indices(num_agents, k=1)
        self._pair_rows = self._second * entities + self._first
        self._measure()

    def place(self, positions: np.ndarray, velocities: np.ndarray | None = None) -> None:
        """Put every entity at `positions`, (2, E, B), moving with `velocities`, (2, N, B), or at rest."""
        self.positions[...] = positions
        self.velocities[...] = 0.0 if velocities is None else velocities
        self._measure()

    def advance(self, force: np.ndarray) -> None:
        """One time step under the agents' own `force`, (2, N, B), which is overwritten."""
        self._add_contact_forces(force)
        self.positions[:, : self.num_agents] += self.velocities * TIME_STEP
        self.velocities *= 1 - DAMPING
        force *= TIME_STEP
        self.velocities += force
        self._measure()

    def collided(self) -> np.ndarray:
        """Agents that overlap another agent: (N, B) bool."""
        hit = self.contacts.distance < self.contact_distance
        collided = np.zeros(self.num_agents * self.num_envs, dtype=bool)
        collided[self.contacts.first[hit]] = True
        collided[self.contacts.second[hit]] = True
        return collided.reshape(self.num_agents, self.num_envs)

    def _add_contact_forces(self, force: np.ndarray) -> None:
        contacts = self.contacts
        overlap = (contacts.distance - self.contact_distance) / CONTACT_MARGIN
        penetration = np.logaddexp(0.0, -overlap) * CONTACT_MARGIN
        # Agents at the very same point push each other nowhere, rather than by 0 / 0.
        distance = np.maximum(contacts.distance, np.finfo(np.float64).tiny)
        push = CONTACT_FORCE * contacts.delta / distance * penetration
        # Second ends first: each agent then adds its pairs in the order of mpe2's double loop.
        for coordinate in range(2):
            flat = force[coordinate].reshape(-1)
            np.subtract.at(flat, contacts.second, push[coordinate])
            np.add.at(flat, contacts.first, push[coordinate])

    def _measure(self) -> None:
        agents = self.positions[:, : self.num_agents, None, :]
        np.subtract(self.positions[:, None, :, :], agents, out=self.relative)
        squares = self.relative * self.relative
        self.squared = squares[0] + squares[1]
        self.contacts = self._find_contacts()

    def _find_contacts(self) -> Contacts:
        num_envs = self.num_envs
        squared = self.squared.reshape(-1, num_envs).take(self._pair_rows, axis=0).reshape(-1)
        near = np.flatnonzero(squared < (self.contact_distance + _REACH) ** 2)
        pair, env = np.divmod(near, num_envs)
        return Contacts(
            first=self._first[pair] * num_envs + env,
            second=self._second[pair] * num_envs + env,
            delta=self.relative.reshape(2, -1).take(self._pair_rows[pair] * num_envs + env, axis=1),
            distance=np.sqrt(squared[near]),
        )


def movement_forces(actions: np.ndarray) -> np.ndarray:
    """Forces of movement actions.

    Args:
        actions: (B, N), indices 0 to 4 as floats: stay, left, right, down, up.

    Returns:
        (2, N, B) float64, fresh.
    """
    return _MOVES.take(actions.T.astype(np.intp), axis=1)
