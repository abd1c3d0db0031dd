"""N agents and N landmarks that they are to cover: the world of Cooperative Navigation and `simple_spread`."""

from __future__ import annotations

import numpy as np

from matrpo.envs.particle.particle_env import Controls, ParticleEnv
from matrpo.envs.particle.physics import Agent, Landmark, ParticleWorld
from matrpo.spaces import TaskSpec

AGENT_RADIUS = 0.15
LANDMARK_RADIUS = 0.05


class CoverageEnv(ParticleEnv):
    """Base of coverage tasks: agents, at rest, and landmarks start uniformly in [-1, 1]^2; agents push each other.

    An agent observes its velocity, its position, and the position relative to it of every landmark and of every
    other agent in the order of ids; what the task's observations have beyond that stays zero.

    Args:
        spec: of the task.
        controls: what the actions mean.
        num_envs: B.
        seed: of the initial positions.
    """

    def __init__(self, spec: TaskSpec, controls: Controls, num_envs: int, seed: int) -> None:
        n = spec.num_agents
        world = ParticleWorld([Agent(AGENT_RADIUS)] * n, [Landmark(LANDMARK_RADIUS)] * n, num_envs)
        super().__init__(spec, world, seed, draws=4 * n)
        self._controls = controls
        self._others = other_agents(n, entities=2 * n)

    def render(self) -> np.ndarray:
        """Environment 0 now, (350, 350, 3) uint8; agent 0 is the orange one."""
        positions = self._world.positions[:, :, 0].T
        canvas = self._canvas(positions.T, AGENT_RADIUS + 0.05)
        for landmark in positions[self.spec.num_agents :]:
            canvas.disc(landmark, LANDMARK_RADIUS, "landmark")
        for agent in reversed(range(self.spec.num_agents)):
            canvas.disc(positions[agent], AGENT_RADIUS, "leader" if agent == 0 else "agent")
        return canvas.image()

    def _begin(self, draws: np.ndarray) -> None:
        self._world.place(2 * draws.reshape(self._world.positions.shape) - 1)

    def _act(self, joint_action: np.ndarray) -> None:
        self._world.advance(self._controls.thrust(joint_action))

    def _describe(self) -> None:
        world, n = self._world, self.spec.num_agents
        (block,) = self._table.blocks
        block[:, 0:2] = world.velocities.transpose(1, 0, 2)
        block[:, 2:4] = world.positions[:, :n].transpose(1, 0, 2)
        pairs = block[:, 4 : 4 * n + 2].reshape(n, 2 * n - 1, 2, self.num_envs)
        pairs[:, :n] = world.relative[:, :, n:].transpose(1, 2, 0, 3)
        others = world.relative.reshape(2, -1, self.num_envs).take(self._others, axis=1)
        pairs[:, n:] = others.transpose(1, 2, 0, 3)

    def _uncovered(self) -> np.ndarray:
        """Distance of each landmark from its nearest agent, summed over the landmarks in order: (B,)."""
        distances = np.sqrt(self._world.squared[:, self.spec.num_agents :].min(axis=0))
        uncovered: np.ndarray = np.add.accumulate(distances)[-1]
        return uncovered


def other_agents(num_agents: int, entities: int) -> np.ndarray:
    """Where (agent, entity) pairs, flattened, hold each agent's other agents in the order of ids: (N, N - 1)."""
    others = [[q * entities + i for i in range(num_agents) if i != q] for q in range(num_agents)]
    return np.array(others, dtype=np.intp).reshape(num_agents, num_agents - 1)
