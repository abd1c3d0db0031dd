"""Google Research Football (Kurach et al., 2020): B games, stepped in worker processes."""

from __future__ import annotations

import dataclasses

import numpy as np

from matrpo.envs.football.picture import ACTIVE, picture
from matrpo.envs.football.share import STATISTICS, record
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.envs.workers.pool import WorkerPool, team_step
from matrpo.envs.workers.worker import Worker
from matrpo.spaces import TaskSpec


class FootballEnv(VectorEnv):
    """B vectorised games of a scenario, in which N agents play the left team's attackers against the engine's team.

    Observations are gfootball's `simple115v2`, actions its default 19, without masks. The team is paid gfootball's
    rewards `scoring,checkpoints`, their mean over the agents: 1 for a goal, -1 for one of the opponents', and at most 1
    in an episode for carrying the ball towards the opponents' goal. Each agent receives the N-th part, so that the team
    return is the game's.

    An episode terminates where the scenario says so (the academy's: a goal, the ball out of play, mostly the opponents'
    getting it), and is truncated at its time limit. Episode e of environment b is a function of (seed, b, e) and of the
    actions. The state for centralised critics is what all observe alike, then which player each agent controls.
    `score` is the goal difference at the end of an episode, `win_rate` the share of episodes in which it is above 0.

    The games are dealt out to as many processes as there are cores; these start at the first order.

    Args:
        spec: the agents; its name is the task's.
        num_envs: B.
        seed: of the games.

    Raises:
        RuntimeError: a worker failed, from any method; the text is one line.
    """

    statistics = STATISTICS

    def __init__(self, spec: TaskSpec, num_envs: int, seed: int) -> None:
        self.spec = spec
        self.num_envs = num_envs
        self._seed = seed
        self._first = 0
        self._records: np.ndarray | None = None
        self._pool = WorkerPool(num_envs, self._start_worker)

    def number_from(self, first: int) -> None:
        self._first = first

    def limit_workers(self, most: int) -> None:
        """Distribute the games over at most so many worker processes."""
        self._pool.limit(most)

    def limit_episodes(self, steps: int) -> None:
        self.spec = dataclasses.replace(self.spec, episode_length=steps)

    def reset(self) -> list[np.ndarray]:
        self._order(b"r")
        return self.observe()

    def step(self, joint_action: np.ndarray) -> VectorStep:
        """Let a tenth of a second pass in every game."""
        self._check_action(joint_action)
        if self._records is None:
            raise RuntimeError("reset the environment before stepping it")
        self._order(b"s", joint_action.astype(np.float32, copy=False))
        records = self._records
        step = team_step(records, self.observe())
        if step.ended.any():
            step.final_observations = _split(records["final_observation"])
            step.final_state = _state(records["final_observation"])
            step.statistics = records["statistics"].copy()
        return step

    def observe(self) -> list[np.ndarray]:
        return _split(self._seen)

    def state(self) -> np.ndarray:
        """What all agents observe alike, then for each the player that it controls as one-hot: (B, 104 + 11 N)."""
        return _state(self._seen)

    def state_dict(self) -> dict[str, np.ndarray] | None:
        """The engine's own state of every game and what else the next step needs, and what is observed now."""
        sizes = np.empty((self.num_envs, 1), dtype=np.int64)
        self._pool.order(b"m", None, sizes)
        games = np.empty((self.num_envs, int(sizes.max())), dtype=np.uint8)
        self._make_room(games)
        self._pool.order(b"g", None, games)
        return {"games": games, "observation": self._seen.copy()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        records = np.zeros(self.num_envs, dtype=record(self.spec))
        games, seen = (state.get(name, np.empty(0)) for name in ("games", "observation"))
        if (games.ndim, len(games), seen.shape) != (2, self.num_envs, records["observation"].shape):
            raise ValueError(f"the saved state is not of {self.spec.name} with as many agents and environments")
        self._make_room(games)
        self._pool.order(b"l", games, np.empty((self.num_envs, 0)))
        records["observation"] = seen
        self._records = records

    def render(self) -> np.ndarray:
        """The pitch of environment 0 from above, (350, 350, 3) uint8, drawn without the engine, which needs OpenGL."""
        return picture(list(self._seen[0]))

    def close(self) -> None:
        self._pool.close()

    @property
    def _seen(self) -> np.ndarray:
        """What is observed now, (B, N, 115) float32."""
        assert self._records is not None
        seen: np.ndarray = self._records["observation"]
        return seen

    def _order(self, letter: bytes, content: np.ndarray | None = None) -> None:
        records = np.zeros(self.num_envs, dtype=record(self.spec))
        self._pool.order(letter, content, records)
        self._records = records

    def _make_room(self, games: np.ndarray) -> None:
        """Prepare the workers for checkpoints of that width."""
        width = np.full((self.num_envs, 1), games.shape[1], dtype=np.int64)
        self._pool.order(b"w", width, np.empty((self.num_envs, 0)))

    def _start_worker(self, first: int, stop: int) -> Worker:
        first, stop = self._first + first, self._first + stop
        label = f"the worker of environments {first} to {stop - 1} of {self.spec.name}"
        numbers = (self.spec.num_agents, self.spec.episode_length, first, stop, self._seed)
        return Worker(label, "matrpo.envs.football.football_worker", [self.spec.name, *map(str, numbers)])


def _split(seen: np.ndarray) -> list[np.ndarray]:
    """For each agent (B, 115) float32, given (B, N, 115)."""
    return [seen[:, q].copy() for q in range(seen.shape[1])]


def _state(seen: np.ndarray) -> np.ndarray:
    """The global state, (B, 104 + 11 N) float32, given observations (B, N, 115)."""
    common = np.delete(seen[:, 0], ACTIVE, axis=1)
    return np.concatenate([common, seen[:, :, ACTIVE].reshape(len(seen), -1)], axis=1)
