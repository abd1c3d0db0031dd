"""Checks what third-party environments hand over against the interface of `VectorEnv`."""

from __future__ import annotations

import traceback
from pathlib import Path

import numpy as np

import matrpo
from matrpo.envs.masks import mask_size
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.errors import in_words

_OWN = Path(matrpo.__file__).parent
_LARGEST_REWARD = 1e30
"""A larger one is taken for a mistake: float32 holds the sums of smaller ones over any episode and team."""


class Wrong(Exception):  # noqa: N818
    """A violation of the interface, in one line.

    Attributes:
        env: the number of the environment that did it, if it is known.
    """

    def __init__(self, text: str, env: int | None = None) -> None:
        super().__init__(text)
        self.env = env

    @classmethod
    def found(cls, where: str, found: str, expected: str, env: int | None = None) -> Wrong:
        """What an environment handed over is not what was expected."""
        return cls(f"{where} is {found}; expected {expected}", env)

    @classmethod
    def raised(cls, call: str, error: BaseException, env: int | None = None) -> Wrong:
        """A call of an environment raised an exception."""
        last = traceback.extract_tb(error.__traceback__)[-1]
        path = Path(last.filename)
        line = "" if path.is_relative_to(_OWN) else f" ({path.name}, line {last.lineno})"
        return cls(f"{call} raised {in_words(error)}{line}", env)


def check_outcome(env: VectorEnv, step: VectorStep) -> None:
    """Check all that a step says of the action that was done; its observations are of what follows.

    Raises:
        Wrong: an array has another shape or type, or a number in it is not finite.
    """
    if not isinstance(step, VectorStep):
        raise Wrong.found("step()", kind_of(step), "a VectorStep")
    shape = (env.num_envs, env.spec.num_agents)
    _check_array("step().rewards", step.rewards, shape, None)
    _check_array("step().terminated", step.terminated, shape, np.bool_)
    _check_array("step().truncated", step.truncated, shape, np.bool_)
    if step.alive is not None:
        _check_array("step().alive", step.alive, shape, np.bool_)
    _check_finite("the reward", step.rewards.astype(np.float64), env.spec.agents, _LARGEST_REWARD)
    if step.final_observations is not None:
        check_observations(env, "step().final_observations", step.final_observations)
    elif step.ended.any():
        raise Wrong.found("step().final_observations", "None", "the last observations, since an episode ended")
    if step.final_state is not None:
        _check_finite("the final state", step.final_state)


def check_observations(env: VectorEnv, where: str, observations: object) -> None:
    """Check each agent's observations.

    Args:
        env: whose they are.
        where: what gave them, for errors.
        observations: of all agents.

    Raises:
        Wrong: one has another shape or type, or a number in it is not finite.
    """
    sizes, names = env.spec.observation_sizes, env.spec.agents
    if not isinstance(observations, list) or len(observations) != len(sizes):
        raise Wrong.found(where, kind_of(observations), f"a list of {len(sizes)} arrays, one for each agent")
    for name, size, observation in zip(names, sizes, observations, strict=True):
        _check_array(f"{where} of {name}", observation, (env.num_envs, size), np.float32)
        _check_finite(f"the observation of agent {name!r}", observation)


def check_state(env: VectorEnv, state: object) -> None:
    """Check the global state.

    Raises:
        Wrong: it is no array of a row for each environment, or a number in it is not finite.
    """
    if not isinstance(state, np.ndarray) or state.ndim != 2 or len(state) != env.num_envs:
        found = f"shape {state.shape}" if isinstance(state, np.ndarray) else kind_of(state)
        raise Wrong.found("state()", found, f"an array with a row for each of {env.num_envs} environments")
    _check_finite("the state", state)


def check_masks(env: VectorEnv, masks: object) -> None:
    """Check each agent's action mask.

    Raises:
        Wrong: one has another shape or type, or its agent has an action space without masks.
    """
    spaces = env.spec.action_spaces
    if not isinstance(masks, list) or len(masks) != len(spaces):
        raise Wrong.found("action_masks()", kind_of(masks), f"a list of {len(spaces)} arrays, one for each agent")
    for name, space, mask in zip(env.spec.agents, spaces, masks, strict=True):
        if mask is None:
            continue
        where = f"action_masks() of {name}"
        if not mask_size(space):
            raise Wrong.found(where, kind_of(mask), f"None, for actions of {space}")
        _check_array(where, mask, (env.num_envs, mask_size(space)), np.bool_)


def check_present(env: VectorEnv, present: object) -> None:
    """Check who is said to be in the current episodes.

    Raises:
        Wrong: it is no boolean for each environment and agent.
    """
    _check_array("present()", present, (env.num_envs, env.spec.num_agents), np.bool_)


def check_picture(picture: object) -> None:
    """Check a picture.

    Raises:
        Wrong: it is none of H rows of W pixels of three uint8.
    """
    expected = "an array of shape (H, W, 3) and type uint8"
    if not isinstance(picture, np.ndarray):
        raise Wrong.found("what render() returns", kind_of(picture), expected)
    if picture.dtype != np.uint8 or picture.shape[2:] != (3,):
        raise Wrong.found("what render() returns", f"shape {picture.shape} and type {picture.dtype}", expected)


def _check_array(where: str, array: object, shape: tuple[int, int], dtype: type | None) -> None:
    expected = f"an array of shape {shape}" + (f" and type {dtype.__name__}" if dtype else "")
    if not isinstance(array, np.ndarray):
        raise Wrong.found(where, kind_of(array), expected)
    if array.shape != shape or (array.dtype != dtype if dtype else array.dtype.kind not in "biuf"):
        raise Wrong.found(where, f"shape {array.shape} and type {array.dtype}", expected)


def _check_finite(where: str, array: np.ndarray, columns: tuple[str, ...] = (), most: float = np.inf) -> None:
    """Check that all numbers are finite, and at most `most` in size.

    Arrays have a row for each environment, and maybe columns for agents.
    """
    wrong = ~np.isfinite(array) | (np.abs(array) > most)
    if not wrong.any():
        return
    env, column = (int(index) for index in np.argwhere(wrong)[0])
    of = f" of agent {columns[column]!r}" if columns else ""
    expected = f"at most {most:g} in size" if np.isfinite(array[env, column]) else "a finite number"
    raise Wrong.found(f"{where}{of}", f"{array[env, column]:g}", expected, env)


def kind_of(value: object) -> str:
    """The type of a wrong value in words, for an error message."""
    return "None" if value is None else f"an object of type {type(value).__name__}"
