"""Checks third-party environments against the interface of `VectorEnv`, by stepping them a little."""

from __future__ import annotations

import numpy as np

from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.errors import ConfigError
from matrpo.spaces import Box

_STEPS = 2


def check_env(env: VectorEnv, name: str) -> None:
    """Reset the environment, step it twice with actions that it allows, and check the arrays.

    Args:
        env: fresh.
        name: what errors call it.

    Raises:
        ConfigError: one has not the shape or type that `VectorEnv` and `VectorStep` say.
        Exception: whatever the environment raises.
    """
    try:
        _try_out(env)
    except _Wrong as error:
        raise ConfigError(f"task {name!r}: {error}") from None


class _Wrong(Exception):  # noqa: N818
    """A violation of the interface: what the environment returned, and what was expected."""

    def __init__(self, where: str, found: str, expected: str) -> None:
        super().__init__(f"{where} gives {found}; expected {expected}")


def _try_out(env: VectorEnv) -> None:
    _check_observations(env, "reset()", env.reset())
    for _ in range(_STEPS):
        step = env.step(_allowed_actions(env))
        if not isinstance(step, VectorStep):
            raise _Wrong("step()", kind_of(step), "a VectorStep")
        _check_observations(env, "step().observations", step.observations)
        shape = (env.num_envs, env.spec.num_agents)
        _check_array("step().rewards", step.rewards, shape, None)
        _check_array("step().terminated", step.terminated, shape, np.bool_)
        _check_array("step().truncated", step.truncated, shape, np.bool_)
        if step.final_observations is not None:
            _check_observations(env, "step().final_observations", step.final_observations)
        elif step.ended.any():
            raise _Wrong("step().final_observations", "None", "the last observations, since an episode ended")


def _allowed_actions(env: VectorEnv) -> np.ndarray:
    """Each factor's first allowed action, and the middle of every `Box`."""
    actions = env.spec.task_units(env.spec.noop(env.num_envs))
    for part, space, mask in zip(env.spec.action_slices, env.spec.action_spaces, env.action_masks(), strict=True):
        if not isinstance(space, Box) and mask is not None:
            factors = np.split(mask, np.cumsum(space.sizes)[:-1], axis=1)
            actions[:, part] = np.stack([allowed.argmax(axis=1) for allowed in factors], axis=1)
    return actions


def _check_observations(env: VectorEnv, where: str, observations: object) -> None:
    sizes, names = env.spec.observation_sizes, env.spec.agents
    if not isinstance(observations, list) or len(observations) != len(sizes):
        raise _Wrong(where, kind_of(observations), f"a list of {len(sizes)} arrays, one for each agent")
    for name, size, observation in zip(names, sizes, observations, strict=True):
        _check_array(f"{where} of {name}", observation, (env.num_envs, size), np.float32)


def _check_array(where: str, array: object, shape: tuple[int, int], dtype: type | None) -> None:
    expected = f"an array of shape {shape}" + (f" and type {dtype.__name__}" if dtype else "")
    if not isinstance(array, np.ndarray):
        raise _Wrong(where, kind_of(array), expected)
    if array.shape != shape or (dtype and array.dtype != dtype):
        raise _Wrong(where, f"shape {array.shape} and type {array.dtype}", expected)


def kind_of(value: object) -> str:
    """The type of a wrong value in words, for an error message."""
    return "None" if value is None else f"an object of type {type(value).__name__}"
