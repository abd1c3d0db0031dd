"""A witness of what a PettingZoo environment hands over, before it becomes arrays of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

MASK = "action_mask"


class Witness:
    """A PettingZoo parallel environment that notes what it hands over; it behaves as the one within.

    Args:
        env: the environment.

    Attributes:
        dtypes: the data types of observations, as they came.
        outside: the first observation that its space does not contain: the agent, and what was found; None if none was.
        mask_places: where action masks stood, `observation` or `info`.
        paid_absent: how often an agent was paid that was not in the episode.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self.dtypes: set[str] = set()
        self.outside: tuple[Any, str] | None = None
        self.mask_places: set[str] = set()
        self.paid_absent = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(self, *args: Any, **options: Any) -> Any:
        """As the environment's own."""
        result = self._env.reset(*args, **options)
        self._note(result[0], result[1])
        return result

    def step(self, actions: dict[Any, Any]) -> Any:
        """As the environment's own."""
        result = self._env.step(actions)
        observations, rewards, _, _, infos = result
        self.paid_absent += sum(bool(np.any(reward)) for agent, reward in rewards.items() if agent not in actions)
        self._note(observations, infos)
        return result

    def _note(self, observations: Mapping[Any, Any], infos: Mapping[Any, Any] | None) -> None:
        for agent, observation in observations.items():
            self.dtypes |= {str(part.dtype) for part in _parts(observation)}
            if isinstance(observation, Mapping) and MASK in observation:
                self.mask_places.add("observation")
            if MASK in ((infos or {}).get(agent) or {}):
                self.mask_places.add("info")
            if self.outside is None and agent in self._env.agents:
                space = self._env.observation_space(agent)
                if not space.contains(observation):
                    self.outside = agent, _difference(observation, space)


def _parts(value: Any) -> Iterator[np.ndarray]:
    """The arrays of an observation that may be a mapping or a tuple of several."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple):
        for part in value:
            yield from _parts(part)
    elif value is not None:
        yield np.asarray(value)


def _difference(observation: Any, space: Any) -> str:
    """In a few words, why a space does not contain an observation."""
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None or not isinstance(observation, np.ndarray):
        return f"it is not in {space}"
    if observation.shape != space.shape:
        return f"shape {observation.shape} instead of {space.shape}"
    if (observation < low).any() or (observation > high).any():
        return f"values from {observation.min():g} to {observation.max():g} in {space}"
    return f"type {observation.dtype} instead of {space.dtype}"
