"""The random streams of a run: each purpose has a key of its own, made of the run's seed.

A key is a NumPy seed sequence, which hashes a row of 32-bit words; for seeds below 2^96 no two purposes have the same
row. Most rows are the seed, padded to four words, with two or more words after it, of which the first is the purpose's
number: 0, 1, 5 and 6 are the links' schedules (`topology/schedule.py`), and one word alone is an attempt at a random
graph (`topology/families.py`). Learners and shared samples have shorter rows: the seed with one number, and with two,
of which the last is never 0.
"""

from __future__ import annotations

import random
import sys

import numpy as np

EVALUATED_ACTIONS = 1_000_003
"""Seed of the actions that are sampled in an evaluation, of any run."""

_EVALUATION = 1_000_003
_SHARED_SAMPLES = 0x5A
_EPISODES = 2
_FAULTS = 3
_GLOBALS = 4


def learner(seed: int, number: int) -> int:
    """The seed of a learner's generator, of 63 bits: networks, actions, minibatches.

    Args:
        seed: the run's.
        number: q for agent q of N; N for an algorithm that learns for all of them.
    """
    return _word(np.random.SeedSequence([seed, number])) >> 1


def episodes(seed: int, stream: int) -> int:
    """The seed of the environments in one stream of episodes; no two streams have an episode in common.

    Args:
        seed: the run's.
        stream: 0 for the episodes of an undisturbed run, whose seed is the run's own.
    """
    return _word(_key(seed, _EPISODES, stream)) if stream else seed


def evaluation(seed: int) -> int:
    """The seed of an evaluation's environments: it never sees the episodes that training saw."""
    return seed + _EVALUATION


def shared_samples(seed: int, iteration: int) -> np.random.SeedSequence:
    """The key of the choice of an iteration's samples that the consensus is about; iterations count from 1."""
    return np.random.SeedSequence([seed, iteration, _SHARED_SAMPLES])


def faults(seed: int, fault: int, agent: int, neighbour: int) -> np.random.SeedSequence:
    """The key of what a fault of a script does to an agent's messages to a neighbour."""
    return _key(seed, _FAULTS, fault, agent, neighbour)


def seed_globals(seed: int, first: int, built: bool) -> None:
    """Seed the generators that are global in this process, of `random`, NumPy, and torch if it is loaded.

    Nothing of matrpo draws from them, but a task may.

    Args:
        seed: of this process's environments.
        first: the number of the first of them.
        built: whether they are built, and their episodes begin.
    """
    words = _key(seed, _GLOBALS, first, int(built)).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(int(words[0]))


def _key(seed: int, *words: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=words)


def _word(key: np.random.SeedSequence) -> int:
    return int(key.generate_state(1, np.uint64)[0])
