"""The base of wrappers: an environment around another one, which does all that they leave as it is."""

from __future__ import annotations

import numpy as np

from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.spaces import TaskSpec


class Wrapper(VectorEnv):
    """Base of environments that change what another environment's agents see or do; its state stays what it was.

    Args:
        env: the environment.
        spec: its agents and spaces as the wrapper has them; agents observe what they did, and more at the end.
    """

    def __init__(self, env: VectorEnv, spec: TaskSpec) -> None:
        self._env = env
        self.spec = spec
        self.num_envs = env.num_envs
        self.statistics = env.statistics

    def number_from(self, first: int) -> None:
        self._env.number_from(first)

    def state(self) -> np.ndarray:
        """The state of the environment within, (B, S) float32."""
        return self._env.state()

    def agent_states(self, state: np.ndarray, observations: list[np.ndarray]) -> list[np.ndarray]:
        sizes = self._env.spec.observation_sizes
        return self._env.agent_states(state, [seen[:, :n] for seen, n in zip(observations, sizes, strict=True)])

    def action_masks(self) -> list[np.ndarray | None]:
        return self._env.action_masks()

    def present(self) -> np.ndarray | None:
        return self._env.present()

    def state_dict(self) -> dict[str, np.ndarray] | None:
        """As of the environment within."""
        return self._env.state_dict()

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self._env.load_state_dict(state)

    def render(self) -> np.ndarray:
        return self._env.render()

    def close(self) -> None:
        self._env.close()


def final_state_of(step: VectorStep) -> np.ndarray | None:
    """`VectorStep.final_state` of a step within, in full where it was left to the observations: (B, S), or None."""
    if step.final_observations is None or step.final_state is not None:
        return step.final_state
    return np.concatenate(step.final_observations, axis=1)
