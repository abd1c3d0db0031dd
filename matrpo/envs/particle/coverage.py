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

    def observe(self) -> list[np.ndarray]:
        observations = np.empty((self.spec.num_agents, self.num_envs, self.spec.observation_sizes[0]), dtype=np.float32)
        world = self._world
        world.kernels.describe_coverage(world.positions, world.velocities, observations)
        return list(observations)
