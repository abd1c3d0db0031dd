"""Football up to the engine: with `tests/pretended_football` in place of gfootball, whose ball goes where agents go."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from matrpo.config import resolve
from matrpo.envs.conformance.guarded import check_env
from matrpo.envs.football.checkpoints import Checkpoints
from matrpo.envs.football.football_env import FootballEnv
from matrpo.envs.football.picture import picture
from matrpo.envs.football.scenarios import SCENARIOS
from matrpo.envs.registry import make_env, task_spec
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.errors import ConfigError, TaskError
from matrpo.run_directory import RunDirectory
from matrpo.runs.run_config import run_config
from matrpo.spaces import Discrete
from matrpo.training import InProcessTraining

PRETENDED = Path(__file__).parents[2] / "pretended_football"
TASK = "football/academy_3_vs_1_with_keeper"
RIGHT, IDLE = 5, 0


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers, and who asks whether gfootball is there, find the pretended one."""
    monkeypatch.setenv("PYTHONPATH", str(PRETENDED))
    monkeypatch.syspath_prepend(PRETENDED)


@pytest.fixture
def made(pretended: None) -> Iterator[list[VectorEnv]]:  # noqa: ARG001
    """Environments to be closed."""
    envs: list[VectorEnv] = []
    yield envs
    for env in envs:
        env.close()


def pushes(env: VectorEnv, *numbers: int) -> np.ndarray:
    """The joint action in which so many agents of each game push the ball to the right."""
    agents = np.arange(env.spec.num_agents)
    return np.where(agents < np.array(numbers)[:, None], RIGHT, IDLE).astype(np.float32)


def played(env: VectorEnv, steps: int, *numbers: int) -> list[VectorStep]:
    env.reset()
    return [env.step(pushes(env, *numbers)) for _ in range(steps)]


def test_agents_see_and_do_what_gfootball_says_and_there_may_be_fewer_of_them() -> None:
    spec = task_spec(TASK, None)
    assert spec.agents == ("player_0", "player_1", "player_2")
    assert (spec.observation_sizes, spec.action_spaces) == ((115,) * 3, (Discrete(19),) * 3)
    assert spec.episode_length == 400
    assert task_spec("football/11_vs_11_stochastic", 2).num_agents == 2
    for scenario in SCENARIOS:
        assert scenario.spec(scenario.default_agents).num_agents == scenario.default_agents <= scenario.players


@pytest.mark.parametrize(
    ("task", "agents", "message"),
    [
        ("football/academy_3_vs_1", None, "did you mean 'football/academy_3_vs_1_with_keeper'"),
        ("football/5_vs_5", 5, "bad value 5 for 'agents': task 'football/5_vs_5' has 1 to 4$"),
        ("football/5_vs_5", 0, "bad value 0 for 'agents': task 'football/5_vs_5' has at least 1$"),
    ],
)
def test_a_mistaken_name_and_too_many_agents_are_told_in_one_line(task: str, agents: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        task_spec(task, agents)
    assert "\n" not in str(caught.value)


def test_without_gfootball_it_says_how_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matrpo.envs.football.family.find_spec", lambda _module: None)
    expected = r"not installed: gfootball, gfootball_engine; `pip install --no-build-isolation 'matrpo\[football\]'`"
    with pytest.raises(ConfigError, match=expected) as caught:
        make_env(TASK, None, 1, seed=0)
    assert "\n" not in str(caught.value)


def seen(ball: tuple[float, float], team: int = 0, player: int = 2) -> dict[str, object]:
    """What checkpoints go by, where agents control the players 1, 2 and 3."""
    return {
        "ball": np.array([*ball, 0.0]),
        "ball_owned_team": team,
        "ball_owned_player": player,
        "left_agent_controlled_player": [1, 2, 3],
    }


def test_whoever_carries_the_ball_towards_the_goal_is_paid_once_for_each_checkpoint() -> None:
    checkpoints = Checkpoints(3)
    assert checkpoints.reward(seen((0.0, 0.0)), 0) == 0.0
    # The circles are at 0.99, 0.99 - 0.8/9 = 0.901, 0.812, ... 0.19.
    assert checkpoints.reward(seen((0.12, 0.0)), 0) == pytest.approx(0.2 / 3)
    assert checkpoints.reward(seen((0.12, 0.0)), 0) == 0.0
    assert checkpoints.reward(seen((0.05, 0.0)), 0) == 0.0
    assert checkpoints.reward(seen((0.12, 0.0), player=3), 0) == pytest.approx(0.2 / 3)
    assert checkpoints.reward(seen((0.9, 0.0), player=0), 0) == 0.0
    assert checkpoints.reward(seen((0.9, 0.0), team=1), 0) == 0.0
    assert checkpoints.reward(seen((0.9, 0.0), team=-1), 0) == 0.0
    assert checkpoints.reward(seen((0.9, 0.2), player=3), 0) == pytest.approx(0.7 / 3)
    assert checkpoints.reward(seen((0.9, 0.0), player=1), 0) == pytest.approx(1.0 / 3)
    assert checkpoints.reached.tolist() == [10, 2, 9]
    assert checkpoints.reward(seen((0.0, 0.0)), -1) == -1.0
    # A goal pays all checkpoints that are left: 8 and 1.
    assert checkpoints.reward(seen((1.0, 0.0)), 1) == pytest.approx(1.0 + 0.9 / 3)
    assert checkpoints.reward(seen((1.0, 0.0)), 1) == 1.0


def test_a_goal_terminates_the_episode_and_the_team_return_is_two(made: list[VectorEnv]) -> None:
    made.append(env := make_env(TASK, None, 2, seed=3))
    # By 0.1 and by 0.15 a step; an episode is over when the ball is at 1.
    steps = played(env, 12, 2, 3)
    over = np.array([step.terminated.all(axis=1) for step in steps])
    assert [np.flatnonzero(column).tolist() for column in over.T] == [[9], [6]]
    assert not any(step.truncated.any() for step in steps)
    team = np.array([step.rewards.sum(axis=1) for step in steps])
    assert team[:10, 0].sum() == pytest.approx(2.0)
    assert team[:7, 1].sum() == pytest.approx(2.0)
    last = steps[6]
    assert last.statistics is not None
    assert last.final_observations is not None
    assert last.statistics[1].tolist() == [1.0, 1.0]
    assert last.final_observations[0][0, 88] == np.float32(0.7)
    assert (last.observations[0][:, 88] == np.float32([0.7, 0.0])).all()


def test_a_lost_game_is_cut_off_at_its_limit_and_its_end_is_kept(made: list[VectorEnv]) -> None:
    made.append(env := make_env("football/5_vs_5", None, 1, seed=0, episode_length=6))
    steps = played(env, 13, 0)
    # The ball goes back by 0.25 a step: the fourth is a goal for the others, which ends nothing here.
    assert [step.truncated.all() for step in steps] == [False] * 5 + [True] + [False] * 5 + [True, False]
    assert not any(step.terminated.any() for step in steps)
    assert [float(step.rewards.sum()) for step in steps[:5]] == [0.0, 0.0, 0.0, -1.0, 0.0]
    last = steps[5]
    assert last.final_observations is not None
    assert last.final_state is not None
    assert last.statistics is not None
    assert last.statistics.tolist() == [[-1.0, 0.0]]
    assert last.final_observations[3][0, 88] == last.final_state[0, 88] == -0.5
    assert last.observations[3][0, 88] == 0.0


def test_a_goal_in_the_last_step_terminates(made: list[VectorEnv]) -> None:
    made.append(env := make_env(TASK, None, 1, seed=0, episode_length=10))
    last = played(env, 10, 2)[-1]
    assert last.terminated.all()
    assert not last.truncated.any()


def test_the_state_is_what_all_see_and_whom_each_controls(made: list[VectorEnv]) -> None:
    made.append(env := make_env(TASK, None, 2, seed=3))
    env.reset()
    env.step(pushes(env, 1, 2))
    state, observations = env.state(), env.observe()
    assert state.shape == (2, 104 + 3 * 11)
    for q, observation in enumerate(observations):
        np.testing.assert_array_equal(state[:, :97], observation[:, :97])
        np.testing.assert_array_equal(state[:, 97:104], observation[:, 108:])
        assert (state[:, 104 + 11 * q : 115 + 11 * q].argmax(axis=1) == 1 + q).all()


def rolled(env: VectorEnv, steps: int) -> list[list[np.ndarray]]:
    handed = [env.reset()]
    for step in (env.step(np.full((env.num_envs, 3), RIGHT, dtype=np.float32)) for _ in range(steps)):
        handed.append([*step.observations, step.rewards, step.terminated])
    return handed


def test_episodes_are_numbered_and_depend_on_seed_and_numbers_alone(made: list[VectorEnv]) -> None:
    made.append(whole := make_env(TASK, None, 5, seed=4, first=0, workers=2))
    made.append(part := make_env(TASK, None, 2, seed=4, first=3, workers=1))
    made.append(other := make_env(TASK, None, 5, seed=5))
    everything = rolled(whole, 9)
    for many, few in zip(everything, rolled(part, 9), strict=True):
        for array, expected in zip(few, many, strict=True):
            np.testing.assert_array_equal(array, expected[3:])
    heights = everything[0][0][:, 89]
    assert len(set(heights.tolist())) > 1
    assert (other.reset()[0][:, 89] != heights).any()
    # The teams take turns at the kick-off.
    assert [int(arrays[0][0, 93]) for arrays in everything] == [0] * 7 + [1] * 3
    assert len(inner(whole)._pool.workers) == 2


def inner(env: VectorEnv) -> FootballEnv:
    """The environment without the check of what it hands over."""
    wrapped = env.inner  # type: ignore[attr-defined]
    assert isinstance(wrapped, FootballEnv)
    return wrapped


def test_a_restored_batch_continues_to_the_bit(made: list[VectorEnv]) -> None:
    saved_in, restored_in = (make_env(TASK, None, 3, seed=4, workers=workers) for workers in (2, 1))
    made += [saved_in, restored_in]
    # Games whose states differ in size: one has begun its second episode.
    played(saved_in, 8, 1, 2, 3)
    saved = saved_in.state_dict()
    assert saved is not None
    restored_in.load_state_dict({name: array.copy() for name, array in saved.items()})
    for own, theirs in zip(restored_in.observe(), saved_in.observe(), strict=True):
        np.testing.assert_array_equal(own, theirs)
    for _ in range(25):
        steps = [env.step(pushes(env, 0, 2, 3)) for env in (saved_in, restored_in)]
        np.testing.assert_array_equal(*[np.concatenate(step.observations, axis=1) for step in steps])
        for field in ("rewards", "terminated", "truncated", "statistics"):
            np.testing.assert_array_equal(*[getattr(step, field) for step in steps])
    for other in ({}, saved | {"games": saved["games"][:2]}, saved | {"observation": saved["observation"][:, :2]}):
        with pytest.raises(ValueError, match="the saved state is not of football/academy_3_vs_1_with_keeper with as"):
            restored_in.load_state_dict(other)


def test_it_keeps_to_the_interface(made: list[VectorEnv]) -> None:
    made.append(env := FootballEnv(task_spec(TASK, None), 2, seed=0))
    check_env(env, TASK)


def test_a_game_that_breaks_down_and_a_worker_that_dies_are_told_in_one_line(made: list[VectorEnv]) -> None:
    made.append(env := make_env("football/academy_corner", None, 1, seed=0))
    with pytest.raises(TaskError, match="football/academy_corner failed: AssertionError: the engine broke") as caught:
        env.reset()
    assert "\n" not in str(caught.value)
    made.append(env := make_env(TASK, None, 2, seed=0, workers=2))
    env.reset()
    processes = [psutil.Process(worker._process.pid) for worker in inner(env)._pool.workers]
    os.kill(processes[1].pid, signal.SIGKILL)
    with pytest.raises(TaskError, match=f"the worker of environments 1 to 1 of {TASK} (is gone|takes)") as caught:
        env.step(env.spec.noop(2))
    assert "\n" not in str(caught.value)
    env.close()
    assert not any(process.is_running() for process in processes)


def test_a_picture_shows_teams_ball_and_whom_agents_control() -> None:
    first, second = np.full((2, 115), -1.0, dtype=np.float32)
    for observation, active in ((first, 1), (second, 2)):
        observation[88:] = 0.0
        observation[97 + active] = 1.0
        observation[:6] = [-0.9, 0.0, 0.5, 0.3, 0.25, -0.3]
        observation[44:46] = [0.75, 0.0]
        observation[88:90] = [-0.5, 0.2]
    image = picture([first, second]).astype(int)

    def colour(x: float, y: float) -> np.ndarray:
        """At a place of the pitch, whose unit is 54.4 m along it and 83.6 m across; the picture shows 58 m around."""
        return image[round(175 + 175 / 58 * 83.6 * y), round(175 + 175 / 58 * 54.4 * x)]

    red, green, blue = colour(-0.9, 0.0)
    assert blue > red + 60
    assert green < blue
    for place in ((0.5, 0.3), (0.25, -0.3)):
        red, green, blue = colour(*place)
        assert red > green > blue + 60
    red, green, blue = colour(0.75, 0.0)
    assert red > max(green, blue) + 80
    assert colour(-0.5, 0.2).max() < 100
    # Nobody else: the pitch has two greys.
    saturated = (image.max(axis=2) - image.min(axis=2) > 60).sum()
    assert saturated < 5 * 3.15 * (1.6 * 175 / 58 + 1) ** 2


@pytest.mark.usefixtures("pretended")
def test_a_run_s_metrics_have_scores_and_win_rates(tmp_path: Path) -> None:
    given = {"task": TASK, "rollout_length": 8, "num_envs": 2, "steps": 16, "hidden_sizes": (8,)}
    run = RunDirectory.create(tmp_path / "run", run_config(resolve(("test", given | {"episode_length": 4}))), {})
    training = InProcessTraining(run)
    training.iterate()
    training.environment.env.close()
    (line,) = run.env.read_metrics()
    assert line["episodes"] == 4
    # Whoever does not push lets the ball go back.
    assert line["win_rate"] == 0.0
    assert line["score"] <= 0.0
