"""Random streams: no two purposes of a run draw from the same one."""

import numpy as np
import pytest

from matrpo import random_streams
from matrpo.topology import make_graph, schedule

SEEDS = (0, 1, 2, 90, 2**32 - 1, 2**32, 2**32 + 1, 3 * 2**64 + 2)


@pytest.fixture
def keys(monkeypatch):
    """Every seed sequence that is made, by what its state begins with."""
    made = []

    class Recorded(np.random.SeedSequence):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(tuple(self.generate_state(4)))

    monkeypatch.setattr(np.random, "SeedSequence", Recorded)
    return made


@pytest.mark.parametrize("seed", SEEDS)
def test_no_two_purposes_share_a_key(keys, seed):
    numbers = (0, 1, 2, 3, 89, 90, 91, seed % 2**32)
    ring = make_graph("ring", 12, 0)
    schedule.link_colours.cache_clear()
    for number in set(numbers):
        random_streams.learner(seed, number)
        random_streams.episodes(seed, number + 1)
        random_streams.shared_samples(seed, number + 1)
        schedule.seeded_sequence(3, 5, seed, number)
        schedule.matching_sequence(ring, 5, seed, number)
        for other in set(numbers):
            schedule.PoissonClock(other, seed, number, 1.0)
            random_streams.seed_globals(seed, number, built=bool(other)) if other in (0, 1) else None
            for agent in (0, 1, 90):
                random_streams.faults(seed, number, agent, other)
    make_graph("random-regular:3", 12, seed)
    assert len(set(keys)) == len(keys) > 100


def test_learners_and_the_episodes_of_an_undisturbed_run_are_what_they_always_were():
    """Checkpoints and results refer to them."""
    first = np.random.SeedSequence([7, 3]).generate_state(1, np.uint64)[0]
    assert random_streams.learner(7, 3) == int(first) >> 1
    assert random_streams.episodes(7, 0) == 7
    assert random_streams.evaluation(7) == 1_000_010


def test_streams_of_episodes_differ():
    assert len({random_streams.episodes(5, stream) for stream in range(100)}) == 100
