"""The games of one worker, played one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from matrpo.envs import counter_rng
from matrpo.envs.football.checkpoints import Checkpoints
from matrpo.envs.football.game import Game
from matrpo.envs.football.scenarios import PREFIX
from matrpo.spaces import TaskSpec

STATISTICS = ("score", "win_rate")
_SIZE = np.dtype(np.int64)


class Share:
    """Games `first` to `stop` - 1 of a batch.

    Args:
        spec: the agents; its name is the task's.
        first, stop: numbers of the games.
        seed: of the batch.

    Attributes:
        joint_actions: (games, N) float32, what the agents do next.
        saved: (games, bytes) uint8, the checkpoint of each game, its size first; `make_room` says how wide it is.
        width: (games, 1) int64, the bytes of a row of `saved`.
    """

    def __init__(self, spec: TaskSpec, first: int, stop: int, seed: int) -> None:
        self._matches = [_Match(spec, number, seed) for number in range(first, stop)]
        self._records = np.zeros(stop - first, dtype=record(spec))
        self.joint_actions = np.empty((stop - first, spec.num_agents), dtype=np.float32)
        self.width = np.zeros((stop - first, 1), dtype=np.int64)
        self.saved = np.empty((stop - first, 0), dtype=np.uint8)

    def reset(self) -> np.ndarray:
        """Begin the next episode everywhere; a record for each game."""
        for match, row in zip(self._matches, self._records, strict=True):
            row["observation"] = match.begin()
        return self._records

    def step(self) -> np.ndarray:
        """Play every game for a step by its row of `joint_actions`; a record for each game."""
        for match, row, actions in zip(self._matches, self._records, self.joint_actions, strict=True):
            match.step(actions.astype(np.intp).tolist(), row)
        return self._records

    def measure(self) -> np.ndarray:
        """The size in bytes of each game's checkpoint now, (games, 1) int64: they differ."""
        return np.array([[_SIZE.itemsize + len(match.save())] for match in self._matches])

    def make_room(self) -> None:
        """Make `saved` as wide as `width` says."""
        self.saved = np.zeros((len(self._matches), self.width[0, 0]), dtype=np.uint8)

    def save(self) -> np.ndarray:
        """Fill `saved` with the checkpoint of each game."""
        for match, row in zip(self._matches, self.saved, strict=True):
            state = match.save()
            whole = np.array([len(state)], dtype=_SIZE).tobytes() + state
            row[: len(whole)] = np.frombuffer(whole, dtype=np.uint8)
        return self.saved

    def load(self) -> None:
        """Continue every game from its row of `saved`."""
        for match, row in zip(self._matches, self.saved, strict=True):
            size = int(row[: _SIZE.itemsize].view(_SIZE)[0])
            match.load(row[_SIZE.itemsize :][:size].tobytes())


class _Match:
    """The episodes of one game, one after the other, each by its own seed."""

    def __init__(self, spec: TaskSpec, number: int, seed: int) -> None:
        self._spec = spec
        self._number = number
        self._seed = seed
        self._game = Game(spec.name.removeprefix(PREFIX), spec.num_agents)
        self._episode = -1
        self._steps = 0
        self._checkpoints = Checkpoints(spec.num_agents)

    def begin(self) -> np.ndarray:
        self._episode += 1
        self._steps = 0
        self._checkpoints = Checkpoints(self._spec.num_agents)
        return self._game.observations(self._begin())

    def step(self, actions: list[int], row: np.void) -> None:
        raw, goals, over = self._game.step(actions)
        self._steps += 1
        row["reward"] = self._checkpoints.reward(raw, goals)
        row["terminated"] = over
        row["truncated"] = not over and self._steps == self._spec.episode_length
        # Always, since an episode may end in another game.
        row["observation"] = row["final_observation"] = self._game.observations(raw)
        score = raw["score"][0] - raw["score"][1]
        row["statistics"] = score, score > 0
        if row["terminated"] or row["truncated"]:
            row["observation"] = self.begin()

    def save(self) -> bytes:
        numbers = [self._episode, self._steps, *self._checkpoints.reached]
        return np.array(numbers, dtype=np.int64).tobytes() + self._game.save()

    def load(self, saved: bytes) -> None:
        numbers = np.frombuffer(saved, dtype=np.int64, count=2 + self._spec.num_agents)
        self._episode, self._steps = numbers[:2].tolist()
        self._checkpoints.reached[:] = numbers[2:]
        self._begin()
        self._game.load(saved[numbers.nbytes :])

    def _begin(self) -> Mapping[str, Any]:
        return self._game.begin(counter_rng.episode_seed(self._seed, self._number, self._episode), self._episode)


def record(spec: TaskSpec) -> np.dtype[np.void]:
    """The data type of what there is to say of one game after a step."""
    seen = (np.float32, (spec.num_agents, spec.observation_sizes[0]))
    return np.dtype(
        [
            ("reward", np.float64),
            ("terminated", np.bool_),
            ("truncated", np.bool_),
            ("observation", *seen),
            ("final_observation", *seen),
            ("statistics", np.float64, (len(STATISTICS),)),
        ],
        align=True,
    )
