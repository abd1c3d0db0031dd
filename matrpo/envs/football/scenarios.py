"""The scenarios of Google Research Football (Kurach et al., 2020): their agents and spaces. N: agents.

They are written down here: listing tasks, and an agent's process, need no `gfootball`.
"""

from __future__ import annotations

from dataclasses import dataclass

from matrpo.envs.family import wrong_agents
from matrpo.spaces import Discrete, TaskSpec

PREFIX = "football/"

OBSERVATION_SIZE = 115
"""Length of gfootball's `simple115v2`."""

NUM_ACTIONS = 19
"""Number of actions in gfootball's default action set; the first is idle."""


@dataclass(frozen=True)
class Scenario:
    """A scenario of gfootball, whose left team the agents play.

    Attributes:
        name: its module's.
        description: one line.
        default_agents: N where `--agents` is not given; as in HARL (Zhong et al., 2024), where that has the scenario.
        players: players of the left team that agents can control.
        episode_length: time limit in steps.
    """

    name: str
    description: str
    default_agents: int
    players: int
    episode_length: int = 400

    @property
    def task(self) -> str:
        """The task's name."""
        return f"{PREFIX}{self.name}"

    def spec(self, num_agents: int) -> TaskSpec:
        """Agents and spaces for N agents.

        Raises:
            ConfigError: there are more than players.
        """
        if not 1 <= num_agents <= self.players:
            raise wrong_agents(self.task, num_agents, f"1 to {self.players}")
        return TaskSpec(
            name=self.task,
            agents=tuple(f"player_{q}" for q in range(num_agents)),
            observation_sizes=(OBSERVATION_SIZE,) * num_agents,
            action_spaces=(Discrete(NUM_ACTIONS),) * num_agents,
            episode_length=self.episode_length,
        )


_WHOLE_GAME = 3000

SCENARIOS = (
    Scenario("academy_empty_goal_close", "one attacker before an empty goal", 1, 2),
    Scenario("academy_empty_goal", "one attacker in the middle of the field, and an empty goal", 1, 2),
    Scenario("academy_run_to_score", "one attacker, chased by five, and an empty goal", 1, 2),
    Scenario("academy_run_to_score_with_keeper", "one attacker, chased by five, and a keeper", 1, 2),
    Scenario("academy_pass_and_shoot_with_keeper", "two attackers, a defender beside the ball and a keeper", 2, 3),
    Scenario("academy_run_pass_and_shoot_with_keeper", "two attackers, one free, a defender and a keeper", 2, 3),
    Scenario("academy_3_vs_1_with_keeper", "three attackers, a defender and a keeper", 3, 4),
    Scenario("academy_corner", "a corner kick, eleven against eleven", 11, 11),
    Scenario("academy_counterattack_easy", "a counterattack of four against a defender and a keeper", 4, 11),
    Scenario("academy_counterattack_hard", "a counterattack of four against two defenders and a keeper", 4, 11),
    Scenario("academy_single_goal_versus_lazy", "eleven score against eleven that stand", 11, 11, _WHOLE_GAME),
    Scenario("5_vs_5", "a game of five against five, whose keepers play by themselves", 4, 4, _WHOLE_GAME),
    Scenario("11_vs_11_easy_stochastic", "a whole game against a weak team", 11, 11, _WHOLE_GAME),
    Scenario("11_vs_11_stochastic", "a whole game against a team of medium strength", 11, 11, _WHOLE_GAME),
    Scenario("11_vs_11_hard_stochastic", "a whole game against a strong team", 11, 11, _WHOLE_GAME),
)
