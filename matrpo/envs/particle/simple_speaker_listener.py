"""`mpe2`'s simple_speaker_listener_v4: one agent knows where the other one is to go."""

from __future__ import annotations

import numpy as np

from matrpo.envs.family import variant_name
from matrpo.envs.particle.particle_env import Controls, ObservationTable, ParticleEnv
from matrpo.envs.particle.physics import Agent, Landmark, ParticleWorld
from matrpo.spaces import TaskSpec

EPISODE_LENGTH = 25
VOCABULARY = 3
NUM_LANDMARKS = 3
AGENT_RADIUS = 0.075
LANDMARK_RADIUS = 0.04

_COLOURS = np.array([[0.65, 0.15, 0.15], [0.15, 0.65, 0.15], [0.15, 0.15, 0.65]])
_DRAWN = ("red", "green", "blue")


class SimpleSpeakerListenerEnv(ParticleEnv):
    """The speaker sees the colour of one of three landmarks, which the listener is to reach.

    Spaces, observations and rewards are those of `mpe2.simple_speaker_listener_v4` with its default arguments, and
    so is the length of an episode, 25 steps, after which it is truncated. The speaker stands still and observes the
    goal's colour. The listener observes its velocity, the landmarks' positions relative to it and the speaker's
    last word, one of three. Both receive minus the squared distance of the listener from the goal.

    Args:
        num_envs: B.
        seed: of positions and goals.
        continuous: whether actions are `Box`, as mpe2's `continuous_actions` are.
    """

    def __init__(self, num_envs: int, seed: int, continuous: bool = False) -> None:
        agents = [Agent(AGENT_RADIUS, movable=False, collides=False), Agent(AGENT_RADIUS, collides=False)]
        world = ParticleWorld(agents, [Landmark(LANDMARK_RADIUS)] * NUM_LANDMARKS, num_envs)
        super().__init__(simple_speaker_listener_spec(continuous), world, seed, draws=2 * (2 + NUM_LANDMARKS) + 1)
        self._controls = _controls(continuous)
        self._goal = np.zeros(num_envs, dtype=np.int64)
        self._word = np.zeros((1, VOCABULARY, num_envs), dtype=np.float32)
        self._state |= {"goal": self._goal, "word": self._word}
        self._envs = np.arange(num_envs)
        self._table = ObservationTable(self.spec.observation_sizes, num_envs)

    def render(self) -> np.ndarray:
        """Environment 0 now, (350, 350, 3) uint8: the listener in the goal's colour, the speaker grey."""
        positions = self._world.positions[:, :, 0]
        canvas = self._canvas(positions, AGENT_RADIUS + 0.05)
        for landmark, colour in zip(positions[:, 2:].T, _DRAWN, strict=True):
            canvas.disc(landmark, LANDMARK_RADIUS, colour)
        canvas.disc(positions[:, 0], AGENT_RADIUS, "grey")
        canvas.disc(positions[:, 1], AGENT_RADIUS, _DRAWN[self._goal[0]])
        return canvas.image()

    def _begin(self, draws: np.ndarray) -> None:
        self._world.place(2 * draws[:-1].reshape(self._world.positions.shape) - 1)
        self._goal[...] = NUM_LANDMARKS * draws[-1]
        self._word[...] = 0.0

    def _act(self, joint_action: np.ndarray) -> None:
        self._world.advance(self._controls.thrust(joint_action))
        self._word[...] = self._controls.words(joint_action)

    def _rewards(self) -> np.ndarray:
        squared = self._world.squared[1, 2 + self._goal, self._envs]
        return np.stack([-squared, -squared], axis=1)

    def observe(self) -> list[np.ndarray]:
        world = self._world
        speaker, listener = (block[0] for block in self._table.blocks)
        speaker[...] = _COLOURS.T.take(self._goal, axis=1)
        listener[0:2] = world.velocities[:, 1]
        landmarks = world.positions[:, 2:] - world.positions[:, 1:2]
        listener[2:8].reshape(NUM_LANDMARKS, 2, -1)[...] = landmarks.transpose(1, 0, 2)
        listener[8:] = self._word[0]
        return self._table.observations()


def simple_speaker_listener_spec(continuous: bool = False) -> TaskSpec:
    """Agents and spaces of the task."""
    return TaskSpec(
        name=variant_name("mpe2/simple_speaker_listener_v4", continuous),
        agents=("speaker_0", "listener_0"),
        observation_sizes=(3, 2 + 2 * NUM_LANDMARKS + VOCABULARY),
        action_spaces=_controls(continuous).spaces,
        episode_length=EPISODE_LENGTH,
    )


def _controls(continuous: bool) -> Controls:
    return Controls([False, True], [VOCABULARY, 0], continuous)
