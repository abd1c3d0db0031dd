"""Random steps of an environment, and a record of what happened in them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.spaces import ActionSpace, Box


@dataclass
class Record:
    """Random steps of the first environment of a batch, of N agents.

    Attributes:
        seconds: what the steps took.
        low, high: the least and the largest number in an observation of an agent that was there.
        digests: a fingerprint of all that was handed over, by the reset and by each step.
        before: for each step, (N,) booleans, agents that were in the episode when they acted.
        after: the same after it.
        rewards, terminated, truncated: for each step, (N,).
        ended: for each step, whether an episode ended with it.
        allowed: for each action mask that an agent was given, the share of choices that it allowed.
    """

    seconds: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    digests: list[bytes] = field(default_factory=list)
    before: list[np.ndarray] = field(default_factory=list)
    after: list[np.ndarray] = field(default_factory=list)
    rewards: list[np.ndarray] = field(default_factory=list)
    terminated: list[np.ndarray] = field(default_factory=list)
    truncated: list[np.ndarray] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    allowed: list[float] = field(default_factory=list)

    @property
    def lengths(self) -> list[int]:
        """Steps of the episodes that ended."""
        ends = np.flatnonzero(self.ended) + 1
        return [int(length) for length in np.diff(ends, prepend=0)]

    def see(self, env: VectorEnv, observations: list[np.ndarray], there: np.ndarray, rewards: np.ndarray) -> None:
        """Note what is handed over at a reset or step."""
        digest = hashlib.blake2b(rewards.tobytes(), digest_size=16)
        for q, (observation, mask) in enumerate(zip(observations, env.action_masks(), strict=True)):
            digest.update(observation[0].tobytes())
            if there[q] and observation.size:
                self.low = min(self.low, float(observation[0].min()))
                self.high = max(self.high, float(observation[0].max()))
            if mask is not None:
                digest.update(mask[0].tobytes())
                if there[q]:
                    self.allowed.append(float(mask[0].mean()))
        self.digests.append(digest.digest())

    def add(self, step: VectorStep, before: np.ndarray) -> None:
        """Note the outcome of a step."""
        self.before.append(before)
        self.after.append(_alive(step))
        self.rewards.append(step.rewards[0])
        self.terminated.append(step.terminated[0])
        self.truncated.append(step.truncated[0])
        self.ended.append(bool(step.ended[0]))


def record_steps(env: VectorEnv, steps: int, seed: int) -> Record:
    """Step environments from their first reset on, by random actions that their masks allow.

    Args:
        env: fresh.
        steps: how many.
        seed: of the actions; those of the first environment do not depend on how many there are.

    Raises:
        TaskError: the environment raises, or hands over what is no use.
    """
    generators, record = [np.random.default_rng([seed, b]) for b in range(env.num_envs)], Record()
    observations = env.reset()
    there = _present(env, np.ones(env.spec.num_agents, dtype=bool))
    record.see(env, observations, there, np.empty(0))
    for _ in range(steps):
        actions = _random_actions(env, generators)
        began = time.perf_counter()
        step = env.step(actions)
        record.seconds += time.perf_counter() - began
        record.add(step, there)
        there = _present(env, _alive(step) | step.ended[0])
        record.see(env, step.observations, there, step.rewards[0])
    return record


def _random_actions(env: VectorEnv, generators: Sequence[np.random.Generator]) -> np.ndarray:
    """Random actions that the masks allow, (B, W) float32: choices are equally probable, boxes uniform."""
    pairs = list(zip(env.spec.action_spaces, env.action_masks(), strict=True))
    rows = [
        np.concatenate([_random_part(space, None if mask is None else mask[b], random) for space, mask in pairs])
        for b, random in enumerate(generators)
    ]
    return np.stack(rows).astype(np.float32)


def _random_part(space: ActionSpace, mask: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
    if isinstance(space, Box):
        units = [random.uniform(-1.0, 1.0) for _ in range(space.size)]
        return np.array([middle + half * unit for unit, (middle, half) in zip(units, space.scales, strict=True)])
    allowed = np.ones(sum(space.sizes), dtype=bool) if mask is None else mask
    factors = np.split(allowed, np.cumsum(space.sizes)[:-1])
    return np.array([random.choice(np.flatnonzero(factor)) if factor.any() else 0 for factor in factors])


def _alive(step: VectorStep) -> np.ndarray:
    alive: np.ndarray = (~(step.terminated | step.truncated) if step.alive is None else step.alive)[0]
    return alive


def _present(env: VectorEnv, otherwise: np.ndarray) -> np.ndarray:
    """Who is in the episode now, by the environment; if it does not say, `otherwise`."""
    present = env.present()
    return otherwise if present is None else present[0].copy()
