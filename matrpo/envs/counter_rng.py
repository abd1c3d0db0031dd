"""A counter-based random generator: each number is a function of (seed, environment, episode, number of the draw).

What has to be saved is then the episode's number alone, and the draws of environment b depend neither on how
many environments there are nor on what the others do. The generator is splitmix64 (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", 2014), whose output function also hashes the key.
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MASK = 2**64 - 1
"""What is kept of a seed."""


def uniform(seed: int, envs: np.ndarray, episodes: np.ndarray, draws: int, first: int | np.ndarray = 0) -> np.ndarray:
    """Uniform numbers in [0, 1), with 53 random bits each.

    Args:
        seed: any integer; its lowest 64 bits count.
        envs: (B,) indices of environments.
        episodes: (B,) episode number of each of them.
        draws: how many numbers each environment needs.
        first: number of the first draw, at least 0, of all of them or of each, (B,) int64.

    Returns:
        (draws, B) float64.
    """
    words = bits(seed, envs, episodes, draws, first)
    return np.ldexp((words >> np.uint64(11)).astype(np.float64), -53)


def bits(seed: int, envs: np.ndarray, episodes: np.ndarray, draws: int, first: int | np.ndarray = 0) -> np.ndarray:
    """Random 64-bit words, by the same key as `uniform`: (draws, B) uint64."""
    key = _mix(np.array([seed & MASK], dtype=np.uint64) + _GOLDEN)
    key = _mix(key + _GOLDEN * (np.asarray(envs).astype(np.uint64) + np.uint64(1)))
    key = _mix(key + _GOLDEN * (np.asarray(episodes).astype(np.uint64) + np.uint64(1)))
    counters = np.arange(1, draws + 1, dtype=np.uint64)[:, None] + np.asarray(first).astype(np.uint64)
    return _mix(key[None, :] + counters * _GOLDEN)


def episode_seed(seed: int, env: int, episode: int) -> int:
    """Seed of an outside simulator's episode in environment `env` of a batch, by the same key as `uniform`: 31 bits."""
    return int(bits(seed, np.array([env]), np.array([episode]), draws=1)[0, 0] >> np.uint64(33))


def _mix(words: np.ndarray) -> np.ndarray:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed
