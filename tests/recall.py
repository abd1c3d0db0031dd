"""A task that cannot be done without a memory."""

from __future__ import annotations

import numpy as np

from matrpo.envs import counter_rng
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.spaces import Discrete, TaskSpec


class RecallEnv(VectorEnv):
    """Two agents, each of which sees a cue, 0 or 1, at an episode's first step and is paid 1 for naming it at the last.

    An episode's return is 2 at best and 1 on average by chance. Episodes last 3 steps in even environments and 4 in odd
    ones: they begin at different times.
    """

    spec = TaskSpec("recall", ("first", "second"), (3, 3), (Discrete(2), Discrete(2)))

    def __init__(self, num_envs: int, seed: int) -> None:
        self.num_envs = num_envs
        self._seed = seed
        self._episodes = np.zeros(num_envs, dtype=np.int64)
        self._time = np.zeros(num_envs, dtype=np.int64)
        self._last = 2 + np.arange(num_envs) % 2

    def reset(self) -> list[np.ndarray]:
        self._episodes += self._time > 0
        self._time[...] = 0
        return self.observe()

    def step(self, joint_action: np.ndarray) -> VectorStep:
        self._check_action(joint_action)
        ended = self._time == self._last
        rewards = (joint_action == self._cues()) * ended[:, None].astype(np.float64)
        self._time += 1
        final = self.observe()
        self._time[ended] = 0
        self._episodes += ended
        terminated = np.repeat(ended[:, None], 2, axis=1)
        return VectorStep(self.observe(), rewards, terminated, np.zeros_like(terminated), final)

    def observe(self) -> list[np.ndarray]:
        shown = self._time == 0
        last = (self._time == self._last).astype(np.float32)
        cues = self._cues()
        return [np.stack([shown * (1 - c), shown * c, last], axis=1).astype(np.float32) for c in cues.T]

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"episodes": self._episodes.copy(), "time": self._time.copy()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self._episodes, self._time = state["episodes"].copy(), state["time"].copy()

    def render(self) -> np.ndarray:
        return np.zeros((1, 1, 3), dtype=np.uint8)

    def _cues(self) -> np.ndarray:
        """(B, 2) of 0 and 1."""
        envs = np.arange(self.num_envs)
        return (counter_rng.uniform(self._seed, envs, self._episodes, 2).T > 0.5).astype(np.float32)
