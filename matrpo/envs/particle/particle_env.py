"""The base of all tasks in particle worlds: episodes, actions, observations, checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from matrpo.envs import counter_rng
from matrpo.envs.drawing import Canvas
from matrpo.envs.particle.physics import ParticleWorld
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.spaces import ActionSpace, Box, Discrete, TaskSpec

NUM_MOVES = 5
"""Movement actions: stay, left, right, down, up."""

_MOVES = np.array([[0.0, -1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, -1.0, 1.0]])
_CACHE_LINE = 16
"""Floats in a cache line."""


class ParticleEnv(VectorEnv):
    """B copies of a task in a particle world; all episodes have the same length and end in the same step.

    What is random depends on (seed, environment, episode, number of the draw) alone.

    Args:
        spec: agents, spaces and episode length.
        world: the bodies.
        seed: of everything random.
        draws: random numbers that the beginning of an episode takes.
    """

    trusted = True

    def __init__(self, spec: TaskSpec, world: ParticleWorld, seed: int, draws: int) -> None:
        self.spec = spec
        self.num_envs = world.num_envs
        self._world = world
        self._seed = seed
        self._first = 0
        self._draws = draws
        self._episode = -1
        self._time = 0
        self._state: dict[str, np.ndarray] = {"positions": world.positions, "velocities": world.velocities}

    @abstractmethod
    def _begin(self, draws: np.ndarray) -> None:
        """Set an episode's initial state from `draws`, (draws, B) uniform numbers in [0, 1)."""

    @abstractmethod
    def _act(self, joint_action: np.ndarray) -> None:
        """Advance the state by one step."""

    @abstractmethod
    def _rewards(self) -> np.ndarray:
        """Each agent's reward in the state that the last step led to: (B, N) float64, fresh."""

    def reset(self) -> list[np.ndarray]:
        self._begin_episode()
        return self.observe()

    def step(self, joint_action: np.ndarray) -> VectorStep:
        """Advance by one step; the environments keep time together, so all episodes end at once."""
        self._check_action(joint_action)
        if self._episode < 0:
            raise RuntimeError("reset the environment before stepping it")
        self._act(joint_action)
        self._time += 1
        rewards = self._rewards()
        observations = self.observe()
        final_observations = None
        ended = self._time == self.spec.episode_length
        if ended:
            final_observations = observations
            self._begin_episode()
            observations = self.observe()
        shape = (self.num_envs, self.spec.num_agents)
        truncated = np.ones(shape, dtype=bool) if ended else np.zeros(shape, dtype=bool)
        return VectorStep(observations, rewards, np.zeros(shape, dtype=bool), truncated, final_observations)

    def number_from(self, first: int) -> None:
        self._first = first

    def state_dict(self) -> dict[str, np.ndarray]:
        """Positions (2, E, B) and velocities (2, N, B), what else the task's state holds, and the clock.

        The clock is the time within the episode and the episode's number.
        """
        clock = np.array([self._time, self._episode], dtype=np.int64)
        return {key: array.copy() for key, array in self._state.items()} | {"clock": clock}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        expected = {key: value.shape for key, value in self.state_dict().items()}
        if {key: value.shape for key, value in state.items()} != expected:
            raise ValueError(f"the saved state is not of {self.spec.name} with as many agents and environments")
        for key, array in self._state.items():
            array[...] = state[key]
        self._world.measure()
        self._time, self._episode = (int(number) for number in state["clock"])

    def _allowed(self, indices: np.ndarray, sizes: np.ndarray) -> bool:
        allowed: bool = self._world.kernels.allowed(np.ascontiguousarray(indices, dtype=np.float32), sizes)
        return allowed

    def _begin_episode(self) -> None:
        self._episode += 1
        self._time = 0
        envs = self._first + np.arange(self.num_envs)
        self._begin(counter_rng.uniform(self._seed, envs, np.full_like(envs, self._episode), self._draws))

    def _canvas(self, positions: np.ndarray, margin: float) -> Canvas:
        """A canvas that shows [-1, 1]^2 and all `positions`, (2, ...), with at least `margin` around them."""
        canvas = Canvas(half_width=max(1.25, float(np.abs(positions).max()) + margin))
        canvas.square(1.0)
        return canvas


class ObservationTable:
    """Buffers in which observations are assembled, the batch axis innermost, before they become (B, O) arrays.

    Attributes:
        blocks: for each run of neighbouring agents with observations of one size, (agents, O, B) float32 to write to.
    """

    def __init__(self, sizes: Sequence[int], num_envs: int) -> None:
        # Rows that lie an odd number of cache lines apart spread over all sets of the cache.
        width = _CACHE_LINE * (-(-num_envs // _CACHE_LINE) | 1)
        runs = [(size, len(list(run))) for size, run in groupby(sizes)]
        self.blocks = [np.zeros((agents, size, width), dtype=np.float32)[:, :, :num_envs] for size, agents in runs]

    def observations(self) -> list[np.ndarray]:
        """Fresh copies for each agent, (B, O_q) float32."""
        return [observation for block in self.blocks for observation in block.transpose(0, 2, 1).copy()]


class Controls:
    """Decodes joint actions into movements and words, as `mpe2` does, of agents that move, speak or do both.

    A discrete action of an agent that does both is `5 * word + move`; a continuous one holds five weights, of
    staying and of each direction, and then one for each word, all clipped to [0, 1].

    Args:
        moves: of each agent, whether it moves.
        words: of each agent, the size of its vocabulary: 0 for a silent one, and the same number for all others.
        continuous: whether actions are `Box` rather than `Discrete`.

    Attributes:
        spaces: each agent's action space.
    """

    def __init__(self, moves: Sequence[bool], words: Sequence[int], continuous: bool) -> None:
        self.spaces = tuple(_action_space(m, w, continuous) for m, w in zip(moves, words, strict=True))
        self._continuous = continuous
        self._moves = np.array([NUM_MOVES if moving else 1 for moving in moves])[:, None]
        self._speakers = np.flatnonzero(words)
        self._vocabulary = np.arange(max(words))[:, None]
        ends = np.cumsum([space.width for space in self.spaces])
        first = ends - np.array([space.width for space in self.spaces])
        # An agent that cannot move takes the difference of one column with itself.
        steps = np.array([1 if moving else 0 for moving in moves])
        self._forwards = np.stack([first + 2 * steps, first + 4 * steps])
        self._backwards = np.stack([first + 1 * steps, first + 3 * steps])
        self._spoken = ends[self._speakers, None] - len(self._vocabulary) + self._vocabulary.T

    def thrust(self, joint_action: np.ndarray) -> np.ndarray:
        """The agents' movements, (2, N, B) float64 in [-1, 1], fresh."""
        if self._continuous:
            weights = np.clip(joint_action.T, 0.0, 1.0)
            difference: np.ndarray = weights[self._forwards] - weights[self._backwards]
            return difference.astype(np.float64)
        moves: np.ndarray = joint_action.T.astype(np.intp)
        if self._speakers.size:
            moves %= self._moves
        thrust: np.ndarray = _MOVES.take(moves, axis=1)
        return thrust

    def words(self, joint_action: np.ndarray) -> np.ndarray:
        """What the speakers say: (speakers, vocabulary, B) float32."""
        if self._continuous:
            weights: np.ndarray = joint_action.T[self._spoken]
            return weights.clip(0.0, 1.0)
        indices = joint_action.T[self._speakers].astype(np.intp) // self._moves[self._speakers]
        words: np.ndarray = (indices[:, None, :] == self._vocabulary).astype(np.float32)
        return words


def movement_controls(num_agents: int, continuous: bool) -> Controls:
    """The controls of agents that all move and are silent."""
    return Controls([True] * num_agents, [0] * num_agents, continuous)


def _action_space(moves: bool, words: int, continuous: bool) -> ActionSpace:
    if continuous:
        return Box(NUM_MOVES * moves + words, 0.0, 1.0)
    return Discrete((NUM_MOVES if moves else 1) * max(words, 1))


def nearest_first(squared: np.ndarray) -> np.ndarray:
    """Sort entities by distance from each observer.

    Args:
        squared: (N, M, B) squared distances. Those that agree to 1 part in 2^52 / 2M count as equal.

    Returns:
        (N, M, B) int64: which entity is k-th nearest; equally near ones are in the order of their ids.
    """
    ids = np.arange(squared.shape[1])
    id_bits = np.int64((1 << int(ids[-1]).bit_length()) - 1)
    # Doubles from 0 upwards sort like their bits: with the id in the last ones, sorting the keys sorts the ids.
    keys = squared.transpose(0, 2, 1).copy().view(np.int64)
    keys &= ~id_bits
    keys |= ids
    keys.sort(axis=2)
    keys &= id_bits
    return np.ascontiguousarray(keys.transpose(0, 2, 1))
