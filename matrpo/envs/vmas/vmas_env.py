"""B environments of a scenario of VMAS, stepped together by its own vectorisation in torch."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from matrpo.envs import counter_rng
from matrpo.envs.conformance.check import Wrong
from matrpo.envs.extras import import_extra
from matrpo.envs.family import variant_name
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.envs.vmas.picture import picture
from matrpo.envs.vmas.saved_state import SavedState
from matrpo.envs.vmas.scenarios import Scenario
from matrpo.errors import ConfigError

_ALL = -1
"""In place of an environment's number: what is drawn is for all of them."""
_LANES = 16
"""Floats that a processor computes together, at most: what is left over of a tensor is rounded in another way."""


class VmasEnv(VectorEnv):
    """B vectorised environments of a scenario, each agent with its own observations and reward.

    An episode ends for all agents at once: by termination where the scenario says so, else by truncation at the time
    limit. Environments begin their episodes one by one (`reset_at`): what is random in the beginning of episode e of
    environment b is a function of (seed, b, e). What a scenario draws in its steps, for all environments together, is
    one of the seed and of the number of the step. There are as many environments more as make B a multiple of 16, at
    rest: else the last bits of an episode would depend on B.

    Args:
        scenario: what is simulated.
        num_agents: N.
        num_envs: B.
        seed: of everything random.
        continuous: whether actions are continuous rather than discrete.

    Raises:
        ConfigError: the extra `vmas` is not installed, or VMAS cannot make the scenario so.
    """

    def __init__(self, scenario: Scenario, num_agents: int, num_envs: int, seed: int, continuous: bool) -> None:
        self.spec = scenario.spec(num_agents, continuous)
        self.num_envs = num_envs
        self._scenario = scenario
        self._seed = seed
        self._first = 0
        self._episodes = np.full(num_envs, -1, dtype=np.int64)
        self._steps = 0
        self._observations: list[np.ndarray] = []
        self._spare = -num_envs % _LANES
        self._generators = _Generators()
        self._env = _make(scenario, num_agents, num_envs + self._spare, self._word(0), continuous)
        self._saved = SavedState(self._env)

    def number_from(self, first: int) -> None:
        if not self._scenario.independent:
            super().number_from(first)
        self._first = first

    def limit_episodes(self, steps: int) -> None:
        self.spec = dataclasses.replace(self.spec, episode_length=steps)

    def reset(self) -> list[np.ndarray]:
        self._env.max_steps = self.spec.episode_length
        with _undisturbed():
            self._begin_episodes(np.arange(self.num_envs))
            self._observations = self._observe()
        return self.observe()

    def step(self, joint_action: np.ndarray) -> VectorStep:
        """Advance every environment by one step; `Box` actions are clipped to their bounds."""
        self._check_action(joint_action)
        if not self._observations:
            raise RuntimeError("reset the environment before stepping it")
        with _undisturbed():
            self._steps += 1
            self._generators.seed(self._env, self._word(self._steps))
            step = self._advance(np.concatenate([joint_action, self.spec.noop(self._spare)]))
            if step.ended.any():
                step.final_observations = step.observations
                self._begin_episodes(np.flatnonzero(step.ended))
                self._renew(step.ended)
                step.observations = self.observe()
        return step

    def observe(self) -> list[np.ndarray]:
        return [observation.copy() for observation in self._observations]

    def state_dict(self) -> dict[str, np.ndarray]:
        """What VMAS's objects hold, what is observed now, and the numbers of the episodes and of the step."""
        saved = {f"vmas{name}": value for name, value in self._saved.save().items()}
        seen = {f"observation.{q}": observation for q, observation in enumerate(self.observe())}
        return {**saved, **seen, "episodes": self._episodes.copy(), "steps": np.array([self._steps])}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        seen = [state.get(f"observation.{q}", np.empty(0)) for q in range(self.spec.num_agents)]
        if [part.shape for part in seen] != [(self.num_envs, size) for size in self.spec.observation_sizes]:
            raise ValueError(f"the saved state is not of {self.spec.name} with as many agents and environments")
        self._saved.load({name.removeprefix("vmas"): value for name, value in state.items() if name.startswith("vmas")})
        self._env.max_steps = self.spec.episode_length
        self._observations = [part.copy() for part in seen]
        self._episodes, self._steps = state["episodes"].copy(), int(state["steps"][0])

    def render(self) -> np.ndarray:
        """Environment 0 now, (350, 350, 3) uint8, drawn without VMAS, whose own pictures need OpenGL."""
        return picture(self._env)

    def _advance(self, joint_action: np.ndarray) -> VectorStep:
        """The step of all environments, (B + spare, W), before those that ended begin again."""
        actions = [torch.from_numpy(joint_action[:, part]) for part in self.spec.action_slices]
        observations, rewards, terminated, truncated, _ = self._env.step(actions)
        self._observations = self._arrays(observations)
        over, late = self._arrays([terminated, truncated])
        # Those of the wheel have an axis too many.
        paid = np.stack([reward.reshape(-1) for reward in self._arrays(rewards)], axis=1).astype(np.float64)
        return VectorStep(self.observe(), paid, self._for_all(over), self._for_all(late & ~over), None)

    def _begin_episodes(self, envs: np.ndarray) -> None:
        """Begin the next episode in some environments, (E,) int64, drawing for each from its own stream."""
        self._episodes[envs] += 1
        seeds = counter_rng.bits(self._seed, self._first + envs, self._episodes[envs], draws=1)[0] >> np.uint64(32)
        for env, seed in zip(envs.tolist(), seeds.tolist(), strict=True):
            self._generators.seed(self._env, seed)
            self._env.reset_at(env, return_observations=False)

    def _observe(self) -> list[np.ndarray]:
        [observations] = self._env.get_from_scenario(
            get_observations=True, get_rewards=False, get_infos=False, get_dones=False
        )
        return self._arrays(observations)

    def _renew(self, ended: np.ndarray) -> None:
        """Observe the beginnings of episodes, where those before have `ended`, (B,) bool."""
        pairs = zip(self._observe(), self._observations, strict=True)
        self._observations = [np.where(ended[:, None], first, last) for first, last in pairs]

    def _word(self, number: int) -> int:
        """The seed of what is drawn for all environments together, the `number`-th time."""
        words = counter_rng.bits(self._seed, np.array([_ALL]), np.array([number]), draws=1)
        return int(words[0, 0] >> np.uint64(32))

    def _arrays(self, tensors: list[torch.Tensor]) -> list[np.ndarray]:
        return [tensor.numpy()[: self.num_envs] for tensor in tensors]

    def _for_all(self, flags: np.ndarray) -> np.ndarray:
        return np.repeat(flags[:, None], self.spec.num_agents, axis=1)


class _Generators:
    """What VMAS draws from: generators whose states all its environments in a process have in common."""

    def __init__(self) -> None:
        self._torch, self._numpy, self._python = torch.Generator(), np.random.RandomState(0), random.Random(0)

    def seed(self, env: Any, seed: int) -> None:
        """As `env.seed`, which takes ten times as long."""
        self._torch.manual_seed(seed)
        self._numpy.seed(seed)
        self._python.seed(seed)
        env.vmas_random_state[:] = self._torch.get_state(), self._numpy.get_state(), self._python.getstate()


def _make(scenario: Scenario, num_agents: int, num_envs: int, seed: int, continuous: bool) -> Any:
    """VMAS's environment.

    Raises:
        ConfigError: it is not installed, or raises.
    """
    vmas = import_extra("vmas", "vmas")
    options = {} if scenario.fewest is None else {scenario.agents_option: num_agents}
    try:
        with _undisturbed():
            return vmas.make_env(
                scenario.name,
                num_envs,
                continuous_actions=continuous,
                clamp_actions=True,
                terminated_truncated=True,
                seed=seed,
                **options,
            )
    except Exception as error:
        task = variant_name(f"vmas/{scenario.name}", continuous)
        raise ConfigError(f"task {task!r} with {num_agents} agents: {Wrong.raised('making it', error)}") from error


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Compute in one thread, which is faster for tensors so small, and without gradients."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)
