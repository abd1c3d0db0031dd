"""The replay buffer: n-step returns against a loop over known episodes, its ring, and what it may have forgotten."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matrpo.algorithms.shared.replay import Layout, Replay
from matrpo.errors import ConfigError
from matrpo.spaces import Discrete, TaskSpec

SPEC = TaskSpec("test", ("a",), (1,), (Discrete(9),))
LAYOUT = Layout(SPEC, state_size=1, with_masks=False)
GAMMA = 0.5


def joint_observations(numbers):
    """One moment for each environment: the number is both its state and its observation."""
    numbers = np.asarray(numbers, dtype=np.float32)
    return np.stack([numbers, numbers, np.ones_like(numbers)], axis=1)


class Recorded:
    """Plays scripted episodes into a buffer and into lists. A moment's number is 1000 * environment + count."""

    def __init__(self, path, scripts, capacity=1000, slack=10, **options):
        self.scripts = scripts
        self.replay = Replay(path, len(scripts), capacity, slack, LAYOUT, **options)
        self.seen = [[1000 * b] for b in range(len(scripts))]
        self.done = [[] for _ in scripts]
        self.t = 0

    def begin(self):
        self.replay.begin(joint_observations([seen[-1] for seen in self.seen]))

    def play(self, steps):
        """A script's character says what comes of a step: `.` goes on, `T` terminates, `C` is cut off."""
        for _ in range(steps):
            outcomes = [script[self.t % len(script)] for script in self.scripts]
            terminated = np.array([outcome == "T" for outcome in outcomes])
            truncated = np.array([outcome == "C" for outcome in outcomes])
            rewards = np.array([len(done) + 1.0 for done in self.done], dtype=np.float32)
            finals = np.array([seen[-1] + 1 for seen in self.seen], dtype=np.float32)
            nexts = finals + (terminated | truncated)
            for b, outcome in enumerate(outcomes):
                self.done[b].append((self.seen[b][-1], float(rewards[b]), outcome, int(finals[b])))
                self.seen[b].append(int(nexts[b]))
            actions = rewards[:, np.newaxis] % 9
            last = joint_observations(finals) if (terminated | truncated).any() else None
            self.replay.add(actions, rewards, terminated, truncated, joint_observations(nexts), last)
            self.t += 1

    def expected(self, number, n_step):
        """Return, discount and the moment to bootstrap from, by a loop over the lists."""
        done = self.done[number // 1000]
        index = next(i for i, transition in enumerate(done) if transition[0] == number)
        total, discount = 0.0, 1.0
        for _, reward, outcome, after in done[index : index + n_step]:
            total += discount * reward
            discount *= GAMMA
            if outcome != ".":
                return total, 0.0 if outcome == "T" else discount, after
        return total, discount, after


def sample(replay, size=500, n_step=1, seed=0):
    return replay.sample(size, n_step, GAMMA, torch.Generator().manual_seed(seed))


def check(recorded, n_step):
    batch = sample(recorded.replay, n_step=n_step)
    numbers = batch.now.state[:, 0].int().tolist()
    for m, number in enumerate(numbers):
        total, discount, after = recorded.expected(number, n_step)
        assert batch.rewards[m].item() == pytest.approx(total, rel=1e-6)
        assert batch.discounts[m].item() == discount
        assert batch.later.state[m].item() == batch.later.observations[0][m].item() == after
    return numbers


def test_a_known_three_step_return_ends_with_the_episode_or_bootstraps_where_it_was_cut(tmp_path):
    recorded = Recorded(tmp_path / "replay.bin", ["..T..C.."])
    recorded.begin()
    recorded.play(8)
    batch = sample(recorded.replay, n_step=3)
    found = {
        int(number): (reward, discount, int(after))
        for number, reward, discount, after in zip(
            batch.now.state[:, 0],
            batch.rewards.tolist(),
            batch.discounts.tolist(),
            batch.later.state[:, 0],
            strict=True,
        )
    }
    assert found == {
        0: (1 + 2 / 2 + 3 / 4, 0.0, 3),  # terminates at the third step
        1: (2 + 3 / 2, 0.0, 3),
        2: (3.0, 0.0, 3),
        4: (4 + 5 / 2 + 6 / 4, 1 / 8, 7),  # is cut at the third step: its last moment counts
        5: (5 + 6 / 2, 1 / 4, 7),
        6: (6.0, 1 / 2, 7),
        8: (7 + 8 / 2, 1 / 4, 10),  # the newest: what was not done yet is not added up
        9: (8.0, 1 / 2, 10),
    }


@settings(max_examples=40)
@given(
    st.lists(st.text("..TC", min_size=1, max_size=7), min_size=1, max_size=3),
    st.integers(1, 6),
    st.integers(1, 25),
)
def test_n_step_returns_equal_a_loop_over_the_episodes(tmp_path_factory, scripts, n_step, steps):
    recorded = Recorded(tmp_path_factory.mktemp("replay") / "replay.bin", scripts, capacity=100)
    recorded.begin()
    recorded.play(steps)
    numbers = check(recorded, n_step)
    assert set(numbers) <= {transition[0] for done in recorded.done for transition in done}


def test_every_transition_is_as_likely_as_any_other(tmp_path):
    recorded = Recorded(tmp_path / "replay.bin", ["T", "....."])
    recorded.begin()
    recorded.play(10)
    numbers = sample(recorded.replay, 20_000).now.state[:, 0].int().tolist()
    counts = np.unique(numbers, return_counts=True)[1]
    assert len(counts) == 20
    np.testing.assert_allclose(counts, 1000, atol=130)  # four standard deviations


def test_the_ring_forgets_the_oldest_first_and_keeps_whole_returns(tmp_path):
    recorded = Recorded(tmp_path / "replay.bin", ["...C", "..T"], capacity=12, slack=5)
    recorded.begin()
    recorded.play(103)
    numbers = check(recorded, n_step=4)
    oldest = [min(number for number in numbers if number // 1000 == b) for b in (0, 1)]
    assert oldest == [recorded.seen[0][-1] - 12, recorded.seen[1][-1] - 12]


def test_what_a_checkpoint_counts_is_there_although_more_was_written_since(tmp_path):
    path = tmp_path / "replay.bin"
    recorded = Recorded(path, ["...C", "..T"], capacity=12, slack=2 * 7)
    recorded.begin()
    recorded.play(60)
    state = recorded.replay.state_dict()
    before = sample(recorded.replay, n_step=3)
    recorded.play(7)
    again = Replay(path, 2, 12, 14, LAYOUT, resume=True)
    again.load_state_dict(state)
    after = sample(again, n_step=3)
    for name in ("rewards", "discounts", "actions"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    assert torch.equal(before.now.state, after.now.state)
    assert torch.equal(before.later.state, after.later.state)


def test_episodes_that_a_restart_left_unfinished_bootstrap_from_what_was_last_seen(tmp_path):
    recorded = Recorded(tmp_path / "replay.bin", ["........"])
    recorded.begin()
    recorded.play(2)
    recorded.replay.begin(joint_observations([500]))
    recorded.replay.add(
        np.zeros((1, 1)), np.array([9.0]), np.array([False]), np.array([False]), joint_observations([501]), None
    )
    batch = sample(recorded.replay, n_step=5)
    found = {
        (int(number), reward, discount, int(after))
        for number, reward, discount, after in zip(
            batch.now.state[:, 0],
            batch.rewards.tolist(),
            batch.discounts.tolist(),
            batch.later.state[:, 0],
            strict=True,
        )
    }
    assert found == {(0, 2.0, 1 / 4, 2), (1, 2.0, 1 / 2, 2), (500, 9.0, 1 / 2, 501)}


def test_a_buffer_that_is_missing_or_too_small_is_refused(tmp_path):
    path = tmp_path / "replay.bin"
    with pytest.raises(ConfigError, match=r"replay\.bin is missing"):
        Replay(path, 2, 12, 5, LAYOUT, resume=True)
    Replay(path, 2, 12, 5, LAYOUT)
    with pytest.raises(ConfigError, match="room for 18 entries of each environment, not 19"):
        Replay(path, 2, 12, 6, LAYOUT, resume=True)
    Replay(path, 2, 12, 4, LAYOUT, resume=True)


def test_the_file_takes_up_space_as_it_fills(tmp_path):
    path = tmp_path / "replay.bin"
    recorded = Recorded(path, ["...C"], capacity=4_000_000)
    recorded.begin()
    recorded.play(10)
    size = path.stat()
    assert size.st_size > 90_000_000
    assert size.st_blocks * 512 < 60_000_000
