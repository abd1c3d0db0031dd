"""A guard around environments that others wrote: what they raise or hand over that is no use ends in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np

from matrpo import random_streams
from matrpo.envs.conformance.check import (
    Wrong,
    check_masks,
    check_observations,
    check_outcome,
    check_picture,
    check_present,
    check_state,
)
from matrpo.envs.masks import factors
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.errors import ConfigError, TaskError

_STEPS = 2


class GuardedEnv(VectorEnv):
    """A third-party `VectorEnv`, of which every array is checked: its shape, its type, and that it is finite.

    Whatever it raises, but `ConfigError`, and whatever is wrong becomes a `TaskError`, which names task, environment
    and step. Rewards become float64; the actions that it is given are its own copy. Each reset seeds the generators
    that are global in this process.

    Args:
        env: the environments.
        task: what errors call them.
        seed: of everything random in them.

    Attributes:
        inner: the environments.
    """

    def __init__(self, env: VectorEnv, task: str, seed: int = 0) -> None:
        self.inner = env
        self._seed = seed
        self._task = task
        self.spec = env.spec
        self.num_envs = env.num_envs
        self.statistics = env.statistics
        self._first = 0
        self._steps: np.ndarray | None = None

    def number_from(self, first: int) -> None:
        self._first = first
        self.inner.number_from(first)

    def limit_workers(self, most: int) -> None:
        self.inner.limit_workers(most)

    def limit_episodes(self, steps: int) -> None:
        self.inner.limit_episodes(steps)
        self.spec = self.inner.spec

    def reset(self) -> list[np.ndarray]:
        self._steps = np.zeros(self.num_envs, dtype=np.int64)
        random_streams.seed_globals(self._seed, self._first, built=True)
        with self._blamed("reset()"):
            observations = self.inner.reset()
            check_observations(self, "reset()", observations)
        return observations

    def step(self, joint_action: np.ndarray) -> VectorStep:
        self._check_action(joint_action)
        if self._steps is not None:
            self._steps += 1
        with self._blamed("step()"):
            step = self.inner.step(joint_action.copy())
            check_outcome(self, step)
            step.rewards = step.rewards.astype(np.float64)
            if self._steps is not None:
                self._steps[step.ended] = 0
            check_observations(self, "step().observations", step.observations)
        return step

    def observe(self) -> list[np.ndarray]:
        with self._blamed("observe()"):
            return self.inner.observe()

    def state(self) -> np.ndarray:
        with self._blamed("state()"):
            state = self.inner.state()
            check_state(self, state)
        return state

    def agent_states(self, state: np.ndarray, observations: list[np.ndarray]) -> list[np.ndarray]:
        with self._blamed("agent_states()"):
            return self.inner.agent_states(state, observations)

    def action_masks(self) -> list[np.ndarray | None]:
        with self._blamed("action_masks()"):
            masks = self.inner.action_masks()
            check_masks(self, masks)
        return masks

    def present(self) -> np.ndarray | None:
        with self._blamed("present()"):
            present = self.inner.present()
            if present is not None:
                check_present(self, present)
        return present

    def default_actions(self) -> np.ndarray:
        """As of the environments within, float32, and its own copy: others' actions are written into it."""
        with self._blamed("default_actions()"):
            actions = np.array(self.inner.default_actions(), dtype=np.float32)
            self._check_action(actions)
        return actions

    def state_dict(self) -> dict[str, np.ndarray] | None:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Continue where `state_dict` was taken; how many steps the episodes have is not known then."""
        self.inner.load_state_dict(state)
        self._steps = None

    def render(self) -> np.ndarray:
        with self._blamed("render()"):
            picture = self.inner.render()
            check_picture(picture)
        return picture

    def close(self) -> None:
        """Close the environments; what they raise then changes nothing that was learned, and is not passed on."""
        with suppress(Exception):
            self.inner.close()

    @contextmanager
    def _blamed(self, call: str) -> Iterator[None]:
        """Convert what is raised inside the block to a `TaskError`."""
        try:
            yield
        except ConfigError:
            raise
        except Wrong as error:
            raise TaskError(f"task {self._task!r}{self._when(error.env)}: {error}") from error
        except (Exception, SystemExit) as error:
            raise TaskError(f"task {self._task!r}: {Wrong.raised(call, error)}") from error

    def _when(self, env: int | None) -> str:
        """The environment, by its number in the whole batch, and the step of its episode, as far as they are known."""
        if env is None:
            return ""
        step = "" if self._steps is None else f", step {self._steps[env]} of its episode"
        return f", environment {self._first + env}{step}"


def check_env(env: VectorEnv, task: str) -> None:
    """Reset third-party environments, step them twice with actions that they allow, and check what they hand over.

    Args:
        env: fresh.
        task: what errors call them.

    Raises:
        ConfigError: they raise, or something is not as `VectorEnv` and `VectorStep` say.
    """
    guarded = GuardedEnv(env, task)
    try:
        handed = guarded.reset()
        for _ in range(_STEPS):
            kept = [array.copy() for array in handed]
            step = guarded.step(_allowed_actions(guarded))
            if not all(map(np.array_equal, handed, kept)):
                raise TaskError(f"task {task!r}: step() wrote to arrays that it had handed over; expected fresh ones")
            handed = [*step.observations, *(step.final_observations or ()), step.rewards, step.terminated]
    except TaskError as error:
        raise ConfigError(str(error)) from error


def _allowed_actions(env: VectorEnv) -> np.ndarray:
    """Each factor's first allowed action, and the middle of every `Box`."""
    actions = env.spec.task_units(env.spec.noop(env.num_envs))
    for part, space, mask in zip(env.spec.action_slices, env.spec.action_spaces, env.action_masks(), strict=True):
        if mask is not None:
            parts = np.split(mask, np.cumsum(factors(space))[:-1], axis=1)
            actions[:, part] = np.stack([allowed.argmax(axis=1) for allowed in parts], axis=1)
    return actions
