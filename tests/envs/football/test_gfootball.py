"""Football by gfootball itself, where it is installed: against its own environment and rewards, called by hand."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from matrpo.envs.conformance.guarded import check_env
from matrpo.envs.counter_rng import episode_seed
from matrpo.envs.football.football_env import FootballEnv
from matrpo.envs.football.scenarios import NUM_ACTIONS, SCENARIOS, Scenario
from matrpo.envs.registry import make_env

pytestmark = pytest.mark.skipif(
    find_spec("gfootball_engine") is None, reason="gfootball is not installed: it has to be compiled (docs/football.md)"
)

SEED = 3
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def module(name: str) -> Any:
    return importlib.import_module(f"gfootball.env.{name}")


def configuration(scenario: Scenario, num_agents: int) -> Any:
    players = [f"agent:left_players={num_agents}"]
    return module("config").Config({"level": scenario.name, "players": players, "game_engine_random_seed": 0})


class ByHand:
    """gfootball's environment of several players, and its rewards, without gym's `reset` and `step`."""

    def __init__(self, scenario: Scenario, num_agents: int) -> None:
        self._config = configuration(scenario, num_agents)
        self.env = module("football_env").FootballEnv(self._config)
        self._paid = module("wrappers").CheckpointRewardWrapper(self.env)

    def begin(self, number: int, episode: int) -> np.ndarray:
        seed = episode_seed(SEED, number, episode)
        numbers = {"game_engine_random_seed": seed, "episode_number": episode - 1}
        self._config.update({**numbers, "reverse_team_processing": bool(seed % 2)})
        self._paid._collected_checkpoints = {}
        return self.convert(self.env.reset())

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, float, bool]:
        seen, reward, over, _ = self.env.step(actions.astype(int))
        return self.convert(seen), float(self._paid.reward(reward).mean()), over

    def convert(self, seen: Any) -> np.ndarray:
        converted: np.ndarray = module("wrappers").Simple115StateWrapper.convert_observation(seen, True)
        return converted


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_scenarios_are_as_written_down(scenario: Scenario) -> None:
    configured = configuration(scenario, scenario.default_agents)
    written = configured.ScenarioConfig()
    assert written.controllable_left_players == scenario.players
    assert written.game_duration == scenario.episode_length
    assert len(module("football_action_set").get_action_set(configured)) == NUM_ACTIONS


def test_all_of_the_academy_is_there() -> None:
    academy = {name for name in module("scenario_builder").all_scenarios() if name.startswith("academy")}
    assert academy <= set(BY_NAME)


@pytest.mark.parametrize(
    ("name", "num_agents", "steps"),
    [("academy_3_vs_1_with_keeper", 3, 90), ("academy_run_pass_and_shoot_with_keeper", 2, 45)],
)
def test_episodes_are_those_of_gfootball_called_by_hand(name: str, num_agents: int, steps: int) -> None:
    """Agents that go right, pass and shoot, so that there are checkpoints, and what ends an episode."""
    number = 4
    env = make_env(f"football/{name}", num_agents, 1, SEED, first=number, workers=1)
    hand = ByHand(BY_NAME[name], num_agents)
    random = np.random.default_rng(0)
    np.testing.assert_array_equal(np.stack(env.reset(), axis=1)[0], hand.begin(number, 0))
    episode, paid = 0, 0.0
    for _ in range(steps):
        actions = random.choice([5, 5, 5, 4, 6, 11, 12, 13], size=num_agents).astype(np.float32)
        step = env.step(actions[None])
        seen, reward, over = hand.step(actions)
        assert step.rewards.sum() == pytest.approx(reward, abs=1e-6)
        assert step.terminated.all() == over
        if over:
            assert step.final_observations is not None
            assert step.statistics is not None
            np.testing.assert_array_equal(np.stack(step.final_observations, axis=1)[0], seen)
            assert step.statistics[0, 0] == np.subtract(*hand.env.observation()[0]["score"])
            episode += 1
            seen = hand.begin(number, episode)
        np.testing.assert_array_equal(np.stack(step.observations, axis=1)[0], seen)
        paid += reward
    env.close()
    assert episode > 0
    assert paid > 0.0


def test_a_goal_is_paid_two_and_ends_the_episode() -> None:
    """One attacker runs to an empty goal and shoots."""
    right, shot, ball = 5, 12, 88
    env = make_env("football/academy_empty_goal_close", 1, 1, SEED, workers=1)
    hand = ByHand(BY_NAME["academy_empty_goal_close"], 1)
    (seen,) = env.reset()
    hand.begin(0, 0)
    paid, by_hand, over = 0.0, 0.0, False
    while not over:
        action = np.array([shot if seen[0, ball] > 0.86 else right], dtype=np.float32)
        step = env.step(action[None])
        _, reward, over = hand.step(action)
        (seen,), paid, by_hand = step.observations, paid + float(step.rewards.sum()), by_hand + reward
        assert step.terminated.all() == over
    assert paid == pytest.approx(by_hand) == 2.0
    assert step.statistics is not None
    assert step.statistics.tolist() == [[1.0, 1.0]]
    env.close()


def handed(env: Any, steps: int) -> list[list[np.ndarray]]:
    """What an environment of three attackers hands over, where all games get the same orders."""
    random = np.random.default_rng(1)
    everything = [env.reset()]
    for _ in range(steps):
        step = env.step(np.tile(random.integers(0, NUM_ACTIONS, 3), (env.num_envs, 1)).astype(np.float32))
        everything.append([*step.observations, step.rewards, step.terminated, step.truncated])
    env.close()
    return everything


def test_episodes_depend_on_seed_and_numbers_alone() -> None:
    task = "football/academy_3_vs_1_with_keeper"
    whole = handed(make_env(task, 3, 3, SEED, first=0, workers=1, episode_length=15), 40)
    part = handed(make_env(task, 3, 1, SEED, first=2, workers=1, episode_length=15), 40)
    other = handed(make_env(task, 3, 1, SEED + 1, first=2, workers=1, episode_length=15), 40)
    for many, few in zip(whole, part, strict=True):
        for array, expected in zip(few, many, strict=True):
            np.testing.assert_array_equal(array, expected[2:])
    assert any((few[0] != many[0]).any() for few, many in zip(other, part, strict=True))
    assert sum(arrays[-1].sum() for arrays in part[1:]) > 0


@pytest.mark.parametrize("name", ["academy_3_vs_1_with_keeper", "5_vs_5"])
def test_a_restored_batch_continues_to_the_bit(name: str) -> None:
    envs = [make_env(f"football/{name}", None, 2, SEED, workers=1, episode_length=18) for _ in range(2)]
    random = np.random.default_rng(2)

    def actions() -> np.ndarray:
        return random.integers(0, NUM_ACTIONS, (2, envs[0].spec.num_agents)).astype(np.float32)

    envs[0].reset()
    for _ in range(13):
        envs[0].step(actions())
    saved = envs[0].state_dict()
    assert saved is not None
    envs[1].load_state_dict({key: array.copy() for key, array in saved.items()})
    for _ in range(30):
        joint = actions()
        steps = [env.step(joint) for env in envs]
        np.testing.assert_array_equal(*[np.stack(step.observations) for step in steps])
        np.testing.assert_array_equal(*[step.rewards for step in steps])
        np.testing.assert_array_equal(*[step.ended for step in steps])
    for env in envs:
        env.close()


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_scenario_can_be_played(scenario: Scenario) -> None:
    for num_agents in {1, scenario.default_agents, scenario.players}:
        env = FootballEnv(scenario.spec(num_agents), 2, SEED)
        check_env(env, scenario.task)
        env.close()
