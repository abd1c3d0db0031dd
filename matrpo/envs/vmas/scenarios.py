"""The scenarios of VMAS (Bettini et al., 2022): their agents and spaces. N: agents.

What agents observe and do is written down here: listing tasks, and an agent's process, need no `vmas`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from matrpo.envs.family import variant_name, wrong_agents
from matrpo.spaces import ActionSpace, Box, Discrete, TaskSpec

Roles = Callable[[int], tuple["Role", ...]]
"""The roles of N agents, in the order of their ids."""

_SPEEDS = 3
"""Forces along an axis with discrete actions: none, backwards, forwards."""


@dataclass(frozen=True)
class Role:
    """`count` agents with the same observation and action spaces.

    Attributes:
        name: what their names begin with; a number follows.
        count: how many.
        observation_size: length of their observations.
        bounds: the largest magnitude of each component of a movement.
        words: how many words they choose one from to say, if they speak.
    """

    name: str
    count: int
    observation_size: int
    bounds: tuple[float, ...] = (1.0, 1.0)
    words: int = 0

    def action_space(self, continuous: bool) -> ActionSpace:
        """A `Box` of movements and the weight of each word, or a `Discrete` of the combinations of both."""
        if not continuous:
            return Discrete(_SPEEDS ** len(self.bounds) * max(self.words, 1))
        bounds = np.array(self.bounds, dtype=np.float32).tolist()
        lowest, highest = [-bound for bound in bounds] + [0.0] * self.words, bounds + [1.0] * self.words
        return Box(len(lowest), lowest, highest)


@dataclass(frozen=True)
class Scenario:
    """A scenario of VMAS.

    Attributes:
        name: its module's.
        description: one line.
        default_agents: N of the scenario's own defaults.
        roles: the roles of N agents.
        fewest: the fewest agents that it can have; None if their number is fixed.
        episode_length: time limit in steps; where BenchMARL (Bettini et al., 2024) has the scenario, its own.
        agents_option: what the scenario calls the number of its agents.
        independent: whether an episode is a function of its environment's number, and not of the other environments:
            no step draws random numbers that matter, and nothing random is common to all.
    """

    name: str
    description: str
    default_agents: int
    roles: Roles
    fewest: int | None = None
    episode_length: int = 100
    agents_option: str = "n_agents"
    independent: bool = True

    def spec(self, num_agents: int, continuous: bool) -> TaskSpec:
        """Agents and spaces for N agents.

        Raises:
            ConfigError: the scenario has more.
        """
        name = variant_name(f"vmas/{self.name}", continuous)
        if self.fewest is not None and num_agents < self.fewest:
            raise wrong_agents(name, num_agents, f"at least {self.fewest}")
        members = [(role, number) for role in self.roles(num_agents) for number in range(role.count)]
        return TaskSpec(
            name=name,
            agents=tuple(f"{role.name}_{number}" for role, number in members),
            observation_sizes=tuple(role.observation_size for role, _ in members),
            action_spaces=tuple(role.action_space(continuous) for role, _ in members),
            episode_length=self.episode_length,
        )


def _alike(observation_size: int, bounds: tuple[float, ...] = (1.0, 1.0)) -> Roles:
    """N agents that are all alike."""
    return lambda n: (Role("agent", n, observation_size, bounds),)


def _one_differs(first: Role, others: str) -> Roles:
    """The first of N agents has a body of its own, the others are holonomic and turn."""
    return lambda n: (first, Role(others, n - 1, 4, (1.0, 1.0, 1.0)))


_SLOW = (0.5, 0.5)

SCENARIOS = (
    Scenario("balance", "agents balance a package on a line and lift it to a goal", 3, _alike(16), fewest=2),
    Scenario("ball_passage", "two agents push a ball through a passage", 2, _alike(10), episode_length=500),
    Scenario("ball_trajectory", "two agents move a ball along a circle", 2, _alike(8)),
    Scenario("buzz_wire", "two agents move a ring along a wire without touching it", 2, _alike(6), independent=False),
    Scenario("discovery", "agents cover targets that take several of them", 5, _alike(19), fewest=1, independent=False),
    Scenario("dispersion", "agents spread over as much food", 4, lambda n: (Role("agent", n, 4 + 3 * n),), fewest=1),
    Scenario("dropout", "one agent has to reach a goal, the others save energy", 4, _alike(7), fewest=1),
    Scenario("flocking", "agents flock around a target among obstacles", 4, _alike(18), fewest=1),
    Scenario(
        "football",
        "a team of blue agents against three red ones that follow a rule",
        3,
        lambda n: (Role("agent_blue", n, 32 + 8 * n),),
        fewest=2,
        agents_option="n_blue_agents",
        episode_length=500,
        independent=False,
    ),
    Scenario("give_way", "two agents pass each other in a corridor", 2, _alike(4, _SLOW)),
    Scenario("joint_passage", "two joined agents pass a wall", 2, _alike(10), episode_length=500),
    Scenario(
        "joint_passage_size",
        "two joined agents of different sizes pass a wall with a hole for each",
        2,
        _alike(12),
        episode_length=500,
    ),
    Scenario("multi_give_way", "four agents pass each other in a crossing", 4, _alike(7, _SLOW), episode_length=200),
    Scenario("navigation", "each agent goes to its own goal and avoids the others", 4, _alike(18), fewest=1),
    Scenario("passage", "five agents in formation pass a wall", 5, _alike(8), episode_length=500),
    Scenario("reverse_transport", "agents inside a package push it to a goal", 4, _alike(10), fewest=1),
    Scenario(
        "road_traffic",
        "cars on the roads of a laboratory",
        20,
        _alike(32, (1.0, 0.61086524)),
        fewest=3,
        independent=False,
    ),
    Scenario("sampling", "agents visit where a density is high, nothing twice", 3, _alike(24), fewest=1),
    Scenario("transport", "agents push a heavy package to a goal", 4, _alike(11), fewest=1),
    Scenario("wheel", "agents turn a heavy line at a given speed", 4, _alike(13), fewest=1),
    Scenario("wind_flocking", "two agents fly in formation against the wind", 2, _alike(4, _SLOW)),
    Scenario("asym_joint", "two joined agents turn an asymmetric package", 2, _alike(4), independent=False),
    Scenario("circle_trajectory", "one agent follows a circle", 1, _alike(6)),
    Scenario(
        "diff_drive",
        "agents with a differential drive and holonomic ones, without a reward",
        2,
        _one_differs(Role("diff_drive", 1, 4), "holo_rot"),
        fewest=1,
    ),
    Scenario(
        "drone",
        "quadcopters that are steered by their torques",
        2,
        lambda n: (Role("drone", n, 4, (1e-5, 1e-5, 1e-5)),),
        fewest=1,
    ),
    Scenario("goal", "one agent goes to a goal and saves energy", 1, _alike(6)),
    Scenario("het_mass", "two agents of different masses, as fast as they can", 2, _alike(4), independent=False),
    Scenario(
        "kinematic_bicycle",
        "a bicycle and holonomic agents, without a reward",
        2,
        _one_differs(Role("bicycle", 1, 4, (1.0, 0.5235988)), "holo_rot"),
        fewest=1,
    ),
    Scenario("line_trajectory", "one agent follows a line", 1, _alike(6)),
    Scenario("pollock", "many agents, lines and boxes that collide, without a reward", 15, _alike(1), fewest=1),
    Scenario("vel_control", "three agents with a velocity controller", 3, _alike(4)),
    Scenario("waterfall", "agents that are joined in a chain", 5, lambda n: (Role("agent", n, 18 + 2 * n),), fewest=1),
    Scenario("simple", "one agent goes to a landmark", 1, _alike(4)),
    Scenario(
        "simple_adversary",
        "N-1 agents hide from an adversary which landmark they go to",
        3,
        lambda n: (Role("adversary", 1, 4 * n - 4), Role("agent", n - 1, 4 * n - 2)),
        fewest=2,
    ),
    Scenario(
        "simple_crypto",
        "Alice sends Bob a message with their key, Eve tries to read it",
        3,
        lambda _: (Role("eve", 1, 4, words=4), Role("bob", 1, 8, words=4), Role("alice", 1, 8, words=4)),
        independent=False,
    ),
    Scenario(
        "simple_push",
        "one goes to a landmark, the other pushes it away",
        2,
        lambda _: (Role("adversary", 1, 8), Role("agent", 1, 19)),
    ),
    Scenario("simple_reference", "each tells the other where to go", 2, lambda _: (Role("agent", 2, 21, words=10),)),
    Scenario(
        "simple_speaker_listener",
        "one tells the other where to go",
        2,
        lambda _: (Role("speaker", 1, 3, words=3), Role("listener", 1, 11)),
    ),
    Scenario("simple_spread", "agents cover as many landmarks", 3, lambda n: (Role("agent", n, 2 + 4 * n),), fewest=1),
    Scenario(
        "simple_tag",
        "three adversaries hunt a faster agent",
        4,
        lambda _: (Role("adversary", 3, 16), Role("agent", 1, 14)),
    ),
    Scenario(
        "simple_world_comm",
        "a leader tells adversaries how to hunt agents that look for food and hide in forests",
        6,
        lambda _: (Role("lead_adversary", 1, 60, words=4), Role("adversary", 3, 60), Role("agent", 2, 56)),
    ),
)
"""The scenarios of VMAS 1.5: its own, then those it calls debug, then those after MPE."""
