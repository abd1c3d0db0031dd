"""The physics of the Multi-agent Particle Environment, for B worlds at once.

Step for step the arithmetic of `mpe2`'s `World` in float64, with the forces added in the same order. Entities are
agents, then landmarks, which are fixed, as all of mpe2's are. Arrays are laid out (coordinate, entity,
environment): the innermost axis is the batch, so that inner loops are long whatever the number of agents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from matrpo.envs.particle import kernels

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


class ParticleWorld:
    """Positions and velocities of agents and landmarks in B worlds.

    Args:
        agents: the N agents.
        landmarks: the landmarks; E counts both.
        num_envs: B.

    Attributes:
        kernels: the loops that do the work, `world_compiled` or `world_numpy`.
        positions: (2, E, B) of all entities, float64.
        velocities: (2, N, B) of the agents.
        squared: (N, E, B), squared distance of every entity from every agent.
        contacts: (3, at least K) ids, agent, entity and environment of each of the K contacts; see `depth`.
    """

    def __init__(self, agents: Sequence[Agent], landmarks: Sequence[Landmark], num_envs: int) -> None:
        num_agents, entities = len(agents), len(agents) + len(landmarks)
        self.kernels = kernels.load("world")
        self.num_agents = num_agents
        self.num_envs = num_envs
        self.positions = np.zeros((2, entities, num_envs))
        self.velocities = np.zeros((2, num_agents, num_envs))
        self.squared = np.zeros((num_agents, entities, num_envs))
        gains = [TIME_STEP / agent.mass if agent.movable else 0.0 for agent in agents]
        self._agents = np.array([[agent.force for agent in agents], gains, [agent.max_speed for agent in agents]])
        self._pairs = _colliding_pairs(agents, landmarks)
        bodies: list[Agent | Landmark] = [*agents, *landmarks]
        touching = np.array([body.radius for body in bodies])[self._pairs].sum(axis=0)
        self._reach = np.stack([touching, (touching + _REACH) ** 2])
        self.contacts = np.zeros((3, touching.size * num_envs), dtype=np.int64)
        self._depth = np.zeros(touching.size * num_envs)
        self.measure()

    @property
    def depth(self) -> np.ndarray:
        """(K,) how deep the bodies of each contact overlap, in `CONTACT_MARGIN`s; negative if they do not touch."""
        return self._depth[: self._found]

    def place(self, positions: np.ndarray, velocities: np.ndarray | None = None) -> None:
        """Put every entity at `positions`, (2, E, B), moving with `velocities`, (2, N, B), or at rest."""
        self.positions[...] = positions
        self.velocities[...] = 0.0 if velocities is None else velocities
        self.measure()

    def advance(self, thrust: np.ndarray) -> None:
        """One time step; `thrust`, (2, N, B), is each agent's movement in units of its force, and is overwritten."""
        # Every mathematical library rounds this one in its own way: it is NumPy's whatever the kernels are.
        softened = np.logaddexp(0.0, self.depth)
        self.kernels.advance(
            thrust,
            softened,
            self.contacts,
            self._agents,
            self.squared,
            self.positions,
            self.velocities,
        )
        self.measure()

    def measure(self) -> None:
        """Find distances and contacts again after a change of `positions`."""
        self._found = self.kernels.measure(
            self.positions, self._pairs, self._reach, self.squared, self.contacts, self._depth
        )


def _colliding_pairs(agents: Sequence[Agent], landmarks: Sequence[Landmark]) -> np.ndarray:
    """The entities of every pair that can collide, (2, P): the pairs of agents, then those of agent and landmark."""
    num_agents = len(agents)
    bodies: list[Agent | Landmark] = [*agents, *landmarks]
    collides = np.array([body.collides for body in bodies])
    pairs = np.array(np.triu_indices(len(collides), k=1), dtype=np.int64)
    first, second = pairs
    pairs = pairs[:, collides[first] & collides[second] & (first < num_agents)]
    return np.ascontiguousarray(pairs[:, np.argsort(pairs[1] >= num_agents, kind="stable")])
