"""The replay buffer of off-policy algorithms: a ring of entries for each environment, in a file.

An entry is half a transition: the joint observation (what all agents and the critic see), the joint action, its reward,
and whether the episode ended. The other half, the next joint observation, is in the next entry of the same environment:
where an episode ended that is its final observation, with no action, and the entry after that begins the next episode.
So nothing is stored twice, a truncated episode bootstraps from where it was cut, and no return reaches into another
episode.

A checkpoint holds no more than how many entries there are. The ring has room for more than are sampled from: what a
checkpoint that is kept may need is not overwritten yet. M: samples; S, O_q, W: state, observation, action sizes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from matrpo.envs.central import CentralStep
from matrpo.envs.masks import mask_size
from matrpo.errors import ConfigError
from matrpo.networks.device import CPU
from matrpo.runs.storage import storing
from matrpo.spaces import TaskSpec

_GOES_ON, _TERMINATED, _TRUNCATED, _NOTHING_DONE = range(4)
"""Outcome of an entry; the last: it has no action, or none yet."""

_BYTES_RESERVED = 1 << 24
_FLOAT = np.dtype(np.float32)


@dataclass(frozen=True)
class JointObservation:
    """M joint observations: states, all agents' observations and their action masks.

    Attributes:
        state: (M, S).
        observations: for each agent, (M, O_q).
        action_masks: for each agent its allowed actions, (M, n) booleans, n = 0 for those of a `Box`; empty if the
            algorithm knows no masks.
        alive: (M, N) booleans, agents that are in the episode and may act.
    """

    state: Tensor
    observations: list[Tensor]
    action_masks: list[Tensor]
    alive: Tensor


@dataclass(frozen=True)
class Batch:
    """A minibatch of M transitions of up to n steps.

    Attributes:
        now: where they begin.
        actions: (M, W), what was done there.
        rewards: (M,), the discounted sum of the rewards on the way.
        discounts: (M,), what the value of `later` counts for: gamma to the number of steps, 0 after a termination.
        later: where they lead: at most n steps on, and not beyond the episode's final observation.
    """

    now: JointObservation
    actions: Tensor
    rewards: Tensor
    discounts: Tensor
    later: JointObservation


class Layout:
    """The layout of an entry: where its numbers hold state, observations, action masks and action.

    Args:
        spec: the agents and their spaces.
        state_size: S.
        with_masks: whether action masks are stored.

    Attributes:
        observation_size: numbers of a joint observation; an entry's action follows them.
        size: numbers of an entry.
    """

    def __init__(self, spec: TaskSpec, state_size: int, with_masks: bool) -> None:
        self._spec = spec
        spaces = spec.action_spaces if with_masks else ()
        self._mask_sizes = [mask_size(space) for space in spaces]
        sizes = [state_size, *spec.observation_sizes, *self._mask_sizes, spec.num_agents, spec.joint_action_width]
        self._parts = [slice(a, b) for a, b in pairwise(accumulate(sizes, initial=0))]
        self.size = sum(sizes)
        self.observation_size = self.size - spec.joint_action_width

    def joint_observations(self, step: CentralStep) -> np.ndarray:
        """The current joint observations. (B, observation size)."""
        observations = [seen.observation for seen in step.agents]
        return self._joined(step.states[0].observation, observations, step, step.alive)

    def final_observations(self, before: CentralStep, step: CentralStep) -> np.ndarray | None:
        """The final joint observations of the episodes that ended with a step, (B, observation size); None if none did.

        No environment says which actions would be allowed there: those that were before.
        """
        state = step.states[0].final_observation
        observations = [seen.final_observation for seen in step.agents]
        if state is None:
            return None
        return self._joined(state, [seen for seen in observations if seen is not None], before, step.survived)

    def split(self, entries: Tensor) -> tuple[JointObservation, Tensor]:
        """The joint observations and joint actions of entries, (M, size)."""
        num_agents = self._spec.num_agents
        state, *parts = (entries[:, part] for part in self._parts)
        masks = [part > 0.5 for part in parts[num_agents:-2]]
        return JointObservation(state, parts[:num_agents], masks, parts[-2] > 0.5), parts[-1]

    def _joined(
        self, state: np.ndarray, observations: Sequence[np.ndarray], masked: CentralStep, alive: np.ndarray
    ) -> np.ndarray:
        masks = [
            np.ones((len(state), n)) if seen.action_mask is None else seen.action_mask
            for n, seen in zip(self._mask_sizes, masked.agents, strict=False)
        ]
        return np.concatenate([state, *observations, *masks, alive], axis=1, dtype=_FLOAT)


class Replay:
    """The replay buffer: a ring of entries for each of B environments, in a file that grows as it fills.

    Args:
        path: the file.
        num_envs: B.
        capacity: transitions of each environment that are sampled from.
        slack: entries of each environment that are kept besides.
        layout: what an entry holds.
        resume: whether the file is there already.
        device: where minibatches are taken to.

    Raises:
        ConfigError: it is to be resumed, and is not there or does not fit.
        StorageError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        num_envs: int,
        capacity: int,
        slack: int,
        layout: Layout,
        resume: bool = False,
        device: torch.device = CPU,
    ) -> None:
        self._device = device
        self._path, self._layout, self._num_envs = path, layout, num_envs
        self._length = capacity + 1  # with the one in which nothing is done yet
        self._slots = self._length + slack
        slot_bytes = num_envs * (layout.size + 2) * _FLOAT.itemsize
        if resume:
            self._slots = self._existing_slots(slot_bytes)
        else:
            self._create(slot_bytes * self._slots)
        self._map = np.memmap(path, _FLOAT, "r+")
        numbers = np.asarray(self._map)[: self._slots * num_envs * (layout.size + 2)]
        signals, entries = np.split(numbers, [self._slots * num_envs * 2])
        self._signals = signals.reshape(-1, 2)
        self._entries = entries.reshape(-1, layout.size)
        self._envs = np.arange(num_envs)
        self._counts = np.zeros(num_envs, dtype=np.int64)
        self._reserved = 0

    def begin(self, observations: np.ndarray) -> None:
        """Begin new episodes in all environments, leaving those before unfinished. Shape (B, observation size)."""
        self._append(self._envs, observations)

    def add(
        self,
        actions: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        observations: np.ndarray,
        final_observations: np.ndarray | None,
    ) -> None:
        """Add a transition of each environment: the action at the current observations, and its outcome.

        Args:
            actions: (B, W).
            rewards: (B,).
            terminated, truncated: (B,) booleans, episodes that ended.
            observations: (B, observation size), what is seen next; where an episode ended, of the next one.
            final_observations: (B, observation size), what was seen at the end of those that ended.

        Raises:
            StorageError: the disk is full.
        """
        now = self._rows(self._counts - 1, self._envs)
        self._entries[now, self._layout.observation_size :] = actions
        self._signals[now, 0] = rewards
        self._signals[now, 1] = np.where(terminated, _TERMINATED, np.where(truncated, _TRUNCATED, _GOES_ON))
        ended = self._envs[terminated | truncated]
        if len(ended):
            assert final_observations is not None
            self._append(ended, final_observations[ended])
        self._append(self._envs, observations)

    def sample(self, size: int, n_step: int, gamma: float, generator: torch.Generator) -> Batch:
        """Sample a minibatch of transitions, uniformly and with replacement.

        Args:
            size: how many.
            n_step: rewards that a transition adds up, at most.
            gamma: discount.
            generator: source of the draws.
        """
        entries, envs = self._draw(size, generator)
        first = self._rows(entries, envs)
        rewards, discounts = np.zeros(size), np.ones(size)
        going = np.ones(size, dtype=bool)
        for _ in range(n_step):
            reward, outcome = self._signals[self._rows(entries, envs)].T
            going &= outcome != _NOTHING_DONE
            rewards += np.where(going, discounts * reward, 0.0)
            discounts *= np.where(going, gamma * (outcome != _TERMINATED), 1.0)
            entries = entries + going
            going &= outcome == _GOES_ON
        now, actions = self._layout.split(self._moved(self._entries[first]))
        later, _ = self._layout.split(self._moved(self._entries[self._rows(entries, envs)]))
        return Batch(now, actions, self._moved(rewards).float(), self._moved(discounts).float(), later)

    def state_dict(self) -> dict[str, Tensor]:
        """The number of entries so far; the file holds the rest, and is on the disk when this returns."""
        self._map.flush()
        return {"counts": torch.from_numpy(self._counts.copy())}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go back to where `state_dict` was taken."""
        self._counts = state["counts"].numpy().copy()
        self._signals[self._rows(self._counts - 1, self._envs)] = 0.0, _NOTHING_DONE

    def _moved(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _rows(self, entries: np.ndarray, envs: np.ndarray) -> np.ndarray:
        rows: np.ndarray = entries % self._slots * self._num_envs + envs
        return rows

    def _append(self, envs: np.ndarray, observations: np.ndarray) -> None:
        self._reserve()
        rows = self._rows(self._counts[envs], envs)
        self._entries[rows, : self._layout.observation_size] = observations
        self._signals[rows] = 0.0, _NOTHING_DONE
        self._counts[envs] += 1

    def _draw(self, size: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Random entries that have an action, and their environments."""
        available = np.minimum(self._counts, self._length) - 1
        ends = np.cumsum(available)
        oldest = self._counts - 1 - available
        entries, envs = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        while len(entries) < size:
            draws = torch.randint(int(ends[-1]), (size - len(entries),), generator=generator).numpy()
            drawn_envs = np.searchsorted(ends, draws, side="right")
            drawn = oldest[drawn_envs] + draws - (ends - available)[drawn_envs]
            done = self._signals[self._rows(drawn, drawn_envs), 1] != _NOTHING_DONE
            entries, envs = np.append(entries, drawn[done]), np.append(envs, drawn_envs[done])
        return entries, envs

    def _existing_slots(self, slot_bytes: int) -> int:
        if not self._path.is_file():
            raise ConfigError(f"{self._path} is missing: the run cannot go on without its replay buffer")
        slots = self._path.stat().st_size // slot_bytes
        if slots < self._slots:
            raise ConfigError(
                f"{self._path} has room for {slots} entries of each environment, not {self._slots}: "
                "leave checkpoint_every and checkpoints_kept no larger than they were"
            )
        return slots

    def _create(self, size: int) -> None:
        """An empty file: it takes up space as it fills."""
        with storing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "wb") as file:
                file.truncate(size)
                os.posix_fallocate(file.fileno(), 0, self._slots * self._num_envs * 2 * _FLOAT.itemsize)

    def _reserve(self) -> None:
        """Take up space for the next entries: writing to a mapped file when the disk is full would end the process."""
        wanted = min(int(self._counts.max()) + 1, self._slots)
        if wanted <= self._reserved:
            return
        slot_bytes = self._num_envs * self._layout.size * _FLOAT.itemsize
        wanted = min(wanted + _BYTES_RESERVED // slot_bytes, self._slots)
        offset = self._slots * self._num_envs * 2 * _FLOAT.itemsize
        with storing(self._path), open(self._path, "r+b") as file:
            os.posix_fallocate(file.fileno(), offset, wanted * slot_bytes)
        self._reserved = wanted
