"""Changes observed: what an observation leaves out of motion, from the observation before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.envs.wrappers.wrapper import Wrapper, final_state_of
from matrpo.spaces import TaskSpec


class ObservedChanges(Wrapper):
    """An environment whose agents also see how their observations changed in the last step, times a weight.

    An agent that observes others' positions then sees their velocities, which nothing else needs to tell it. It is
    what two stacked frames hold (Mnih et al. 2015), with the small difference between them made large. Changes are 0 in
    an agent's first observation of an episode, and while it is not in it.

    Args:
        env: the environment.
        weight: what changes are multiplied by.
    """

    def __init__(self, env: VectorEnv, weight: float) -> None:
        super().__init__(env, with_changes(env.spec))
        self._weight = np.float32(weight)
        self._before: list[np.ndarray] = []
        self._changes: list[np.ndarray] = []
        self._present: np.ndarray | None = None

    def reset(self) -> list[np.ndarray]:
        self._before = self._env.reset()
        self._changes = [np.zeros_like(seen) for seen in self._before]
        self._present = self._who_is_there()
        return self.observe()

    def step(self, joint_action: np.ndarray) -> VectorStep:
        """Advance every environment by one step."""
        step, finals = self._env.step(joint_action), None
        if step.final_observations is not None:
            finals = _side_by_side(step.final_observations, self._changes_to(step.final_observations))
        self._changes = self._changes_to(step.observations)
        there, self._present = self._present, self._who_is_there()
        for q, change in enumerate(self._changes):
            change[step.ended] = 0.0
            for present in (there, self._present):
                if present is not None:
                    change[~present[:, q]] = 0.0
        self._before = step.observations
        observations = _side_by_side(step.observations, self._changes)
        final_state = final_state_of(step)
        return dataclasses.replace(step, observations=observations, final_observations=finals, final_state=final_state)

    def default_actions(self) -> np.ndarray:
        return self._env.default_actions()

    def observe(self) -> list[np.ndarray]:
        return _side_by_side(self._before, self._changes)

    def state_dict(self) -> dict[str, np.ndarray] | None:
        """That of the environment within, and the changes last observed: (B, observation sizes' sum) float32."""
        state = self._env.state_dict()
        return None if state is None else state | {"observed_changes": np.concatenate(self._changes, axis=1)}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        within = dict(state)
        changes = within.pop("observed_changes", np.empty((0, 0), dtype=np.float32))
        sizes = self._env.spec.observation_sizes
        if changes.shape != (self.num_envs, sum(sizes)):
            raise ValueError(f"the saved state of {self.spec.name} is without the changes that agents observe")
        self._env.load_state_dict(within)
        self._before = self._env.observe()
        self._present = self._who_is_there()
        self._changes = np.split(changes, np.cumsum(sizes)[:-1], axis=1)

    def _who_is_there(self) -> np.ndarray | None:
        present = self._env.present()
        return None if present is None else present.copy()

    def _changes_to(self, observations: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self._weight * (seen - old) for seen, old in zip(observations, self._before, strict=True)]


def with_changes(spec: TaskSpec) -> TaskSpec:
    """The spec of a task whose agents observe changes, too."""
    return dataclasses.replace(spec, observation_sizes=tuple(2 * size for size in spec.observation_sizes))


def _side_by_side(observations: Sequence[np.ndarray], changes: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [np.concatenate(pair, axis=1) for pair in zip(observations, changes, strict=True)]
