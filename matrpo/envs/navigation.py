"""Cooperative Navigation, the paper's first task (its section VI.B.1 and Table I)."""

from __future__ import annotations

import numpy as np

from matrpo.envs import counter_rng
from matrpo.envs.drawing import Canvas
from matrpo.envs.family import NOTHING, Family, KnownTask
from matrpo.envs.particle import NUM_MOVES, ParticleWorld, movement_forces
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.spaces import Discrete, TaskSpec

EPISODE_LENGTH = 100
AGENT_SIZE = 0.15
LANDMARK_SIZE = 0.05


class NavigationEnv(VectorEnv):
    """N agents learn to cover N landmarks and not to collide, and only agent 0 is paid for the covering.

    An episode lasts 100 steps and is then truncated. Agents and landmarks start uniformly in [-1, 1]^2, the
    agents at rest; initial positions depend on (seed, environment, episode) alone. An agent observes 4N + 2
    numbers: its velocity, its position, the position relative to it of every landmark, and of every other agent
    in the order of ids. Actions: stay, left, right, down, up. The physics are those of `mpe2`'s
    `simple_spread_v3`.

    With d(i, j) the distance from agent i to landmark j and c_q = 1 if agent q overlaps another agent, else 0,
    the rewards after each step are

        r^0 = -sum_j min_i d(i, j) - c_0        r^q = -c_q for q > 0

    Table I prints min_{i,j} d(i, j) for the first term. The paper's Fig. 2 speaks of "the proximity of any agent
    to each landmark" and the task that it modifies sums over the landmarks; only with the sum is the team return
    of untrained agents about -263 an episode at N = 3, so the sum is what is meant.

    Args:
        num_agents: N, at least 1.
        num_envs: B.
        seed: of the initial positions.
    """

    def __init__(self, num_agents: int, num_envs: int, seed: int) -> None:
        self.spec = navigation_spec(num_agents)
        self.num_envs = num_envs
        self._seed = seed
        self._world = ParticleWorld(num_agents, num_agents, AGENT_SIZE, num_envs)
        self._episode = -1
        self._time = 0
        self._rows = _observation_rows(num_agents)
        self._features = np.empty((4 * num_agents + 4 * num_agents**2, num_envs), dtype=np.float32)

    def reset(self) -> list[np.ndarray]:
        """Begin the next episode in every environment."""
        self._begin_episode()
        return self.observe()

    def step(self, joint_action: np.ndarray) -> VectorStep:
        """Advance by one step; the environments keep time together, so all episodes end at once."""
        self._check_action(joint_action)
        if self._episode < 0:
            raise RuntimeError("reset the environment before stepping it")
        self._world.advance(movement_forces(joint_action))
        self._time += 1
        rewards = self._rewards()
        observations = self.observe()
        final_observations = None
        ended = self._time == EPISODE_LENGTH
        if ended:
            final_observations = observations
            self._begin_episode()
            observations = self.observe()
        shape = (self.num_envs, self.spec.num_agents)
        truncated = np.full(shape, ended)
        return VectorStep(observations, rewards, np.zeros(shape, dtype=bool), truncated, final_observations)

    def observe(self) -> list[np.ndarray]:
        """The current observations, (B, 4N + 2) float32 for each agent."""
        world, num_agents = self._world, self.spec.num_agents
        own = 2 * num_agents
        self._features[:own] = world.velocities.reshape(own, -1)
        self._features[own : 2 * own].reshape(2, num_agents, -1)[...] = world.positions[:, :num_agents]
        self._features[2 * own :] = world.relative.reshape(-1, self.num_envs)
        rows = self._features.take(self._rows, axis=0).reshape(num_agents, -1, self.num_envs)
        return list(np.ascontiguousarray(rows.transpose(0, 2, 1)))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Positions (2, 2N, B), velocities (2, N, B), and the time and number of the episode."""
        return {
            "positions": self._world.positions.copy(),
            "velocities": self._world.velocities.copy(),
            "clock": np.array([self._time, self._episode], dtype=np.int64),
        }

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Continue exactly where `state_dict` was taken."""
        expected = {key: value.shape for key, value in self.state_dict().items()}
        if {key: value.shape for key, value in state.items()} != expected:
            raise ValueError("the saved state is not of navigation with as many agents and environments")
        self._world.place(state["positions"], state["velocities"])
        self._time, self._episode = (int(number) for number in state["clock"])

    def render(self) -> np.ndarray:
        """Environment 0 now, (350, 350, 3) uint8; agent 0, whom the landmarks pay, is the orange one."""
        num_agents = self.spec.num_agents
        positions = self._world.positions[:, :, 0].T
        canvas = Canvas(half_width=max(1.25, float(np.abs(positions).max()) + AGENT_SIZE + 0.05))
        canvas.square(1.0)
        for landmark in positions[num_agents:]:
            canvas.disc(landmark, LANDMARK_SIZE, "landmark")
        for agent in reversed(range(num_agents)):
            canvas.disc(positions[agent], AGENT_SIZE, "leader" if agent == 0 else "agent")
        return canvas.image()

    def _begin_episode(self) -> None:
        self._episode += 1
        self._time = 0
        envs = np.arange(self.num_envs)
        entities = 2 * self.spec.num_agents
        draws = counter_rng.uniform(self._seed, envs, np.full_like(envs, self._episode), 2 * entities)
        self._world.place(2 * draws.reshape(2, entities, self.num_envs) - 1)

    def _rewards(self) -> np.ndarray:
        nearest = np.sqrt(self._world.squared[:, self.spec.num_agents :].min(axis=0))
        rewards: np.ndarray = np.subtract(0.0, self._world.collided())
        rewards[0] -= nearest.sum(axis=0)
        return rewards.T


def navigation_spec(num_agents: int) -> TaskSpec:
    """Agents and spaces of the task with `num_agents` agents (at least 1)."""
    return TaskSpec(
        name="navigation",
        agents=tuple(f"agent_{q}" for q in range(num_agents)),
        observation_sizes=(4 * num_agents + 2,) * num_agents,
        action_spaces=(Discrete(NUM_MOVES),) * num_agents,
        episode_length=EPISODE_LENGTH,
    )


def _observation_rows(num_agents: int) -> np.ndarray:
    """The rows of (velocities, agents' positions, relative positions) that each agent observes, in order."""
    velocity = np.arange(2 * num_agents).reshape(2, num_agents)
    position = velocity + 2 * num_agents
    relative = np.arange(4 * num_agents**2).reshape(2, num_agents, 2 * num_agents) + 4 * num_agents
    rows = []
    for q in range(num_agents):
        seen = [num_agents + j for j in range(num_agents)] + [i for i in range(num_agents) if i != q]
        rows += [velocity[:, q], position[:, q], relative[:, q, seen].T.reshape(-1)]
    return np.concatenate(rows)


FAMILY = Family(
    pattern="navigation",
    description="cooperative navigation with private rewards",
    needs=NOTHING,
    tasks=(
        KnownTask(
            "navigation",
            "N agents cover N landmarks, only the first is paid for it",
            default_agents=12,
            fixed=False,
            describe=navigation_spec,
            build=NavigationEnv,
        ),
    ),
)
