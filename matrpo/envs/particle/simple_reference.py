"""`mpe2`'s simple_reference_v3: each of two agents knows where the other one is to go."""

from __future__ import annotations

import numpy as np

from matrpo.envs.family import variant_name
from matrpo.envs.particle.particle_env import Controls, ObservationTable, ParticleEnv
from matrpo.envs.particle.physics import Agent, Landmark, ParticleWorld
from matrpo.spaces import TaskSpec

EPISODE_LENGTH = 25
LOCAL_RATIO = 0.5
"""Weight of an agent's own error in its reward; the rest is of the mean error."""
VOCABULARY = 10
NUM_LANDMARKS = 3
RADIUS = 0.05

_COLOURS = np.array([[0.75, 0.25, 0.25], [0.25, 0.75, 0.25], [0.25, 0.25, 0.75]])
_DRAWN = ("red", "green", "blue")
_OTHER = np.array([1, 0])


class SimpleReferenceEnv(ParticleEnv):
    """Two agents among three landmarks; each sees the colour of the landmark that the other one is to reach.

    Spaces, observations and rewards are those of `mpe2.simple_reference_v3` with its default arguments, and so is
    the length of an episode, 25 steps, after which it is truncated. An agent observes its velocity, the landmarks'
    positions relative to it, the colour of the other's landmark, and the other's last word, one of ten. With e_q
    the distance between the other agent and the landmark whose colour agent q sees, agent q receives

        -0.5 e_q - 0.5 (e_0 + e_1) / 2

    Args:
        num_envs: B.
        seed: of positions and goals.
        continuous: whether actions are `Box`, as mpe2's `continuous_actions` are.
    """

    def __init__(self, num_envs: int, seed: int, continuous: bool = False) -> None:
        world = ParticleWorld([Agent(RADIUS, collides=False)] * 2, [Landmark(RADIUS)] * NUM_LANDMARKS, num_envs)
        super().__init__(simple_reference_spec(continuous), world, seed, draws=2 * (2 + NUM_LANDMARKS) + 2)
        self._controls = _controls(continuous)
        self._goals = np.zeros((2, num_envs), dtype=np.int64)
        self._words = np.zeros((2, VOCABULARY, num_envs), dtype=np.float32)
        self._state |= {"goals": self._goals, "words": self._words}
        self._envs = np.arange(num_envs)
        self._table = ObservationTable(self.spec.observation_sizes, num_envs)

    def render(self) -> np.ndarray:
        """Environment 0 now, (350, 350, 3) uint8; an agent has the colour of the landmark that it is to reach."""
        positions = self._world.positions[:, :, 0]
        canvas = self._canvas(positions, 2 * RADIUS)
        for landmark, colour in zip(positions[:, 2:].T, _DRAWN, strict=True):
            canvas.disc(landmark, RADIUS, colour)
        for agent in range(2):
            canvas.disc(positions[:, agent], 1.5 * RADIUS, _DRAWN[self._goals[_OTHER[agent], 0]])
        return canvas.image()

    def _begin(self, draws: np.ndarray) -> None:
        positions = self._world.positions
        self._world.place(2 * draws[:-2].reshape(positions.shape) - 1)
        self._goals[...] = NUM_LANDMARKS * draws[-2:]
        self._words[...] = 0.0

    def _act(self, joint_action: np.ndarray) -> None:
        self._world.advance(self._controls.thrust(joint_action))
        self._words[...] = self._controls.words(joint_action)

    def _rewards(self) -> np.ndarray:
        errors = np.sqrt(self._world.squared[_OTHER[:, None], 2 + self._goals, self._envs])
        rewards: np.ndarray = -LOCAL_RATIO * errors - (1 - LOCAL_RATIO) * errors.mean(axis=0)
        return rewards.T

    def observe(self) -> list[np.ndarray]:
        world = self._world
        (block,) = self._table.blocks
        block[:, 0:2] = world.velocities.transpose(1, 0, 2)
        landmarks = world.positions[:, None, 2:] - world.positions[:, :2, None]
        block[:, 2:8].reshape(2, NUM_LANDMARKS, 2, -1)[...] = landmarks.transpose(1, 2, 0, 3)
        block[:, 8:11] = _COLOURS.T.take(self._goals, axis=1).transpose(1, 0, 2)
        block[:, 11:] = self._words[::-1]
        return self._table.observations()


def simple_reference_spec(continuous: bool = False) -> TaskSpec:
    """Agents and spaces of the task."""
    return TaskSpec(
        name=variant_name("mpe2/simple_reference_v3", continuous),
        agents=("agent_0", "agent_1"),
        observation_sizes=(2 + 2 * NUM_LANDMARKS + 3 + VOCABULARY,) * 2,
        action_spaces=_controls(continuous).spaces,
        episode_length=EPISODE_LENGTH,
    )


def _controls(continuous: bool) -> Controls:
    return Controls([True, True], [VOCABULARY, VOCABULARY], continuous)
