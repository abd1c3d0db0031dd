"""Evaluation: which episodes count, whatever their lengths, and how sure one can be of their mean."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

import matrpo.evaluation
from matrpo.envs import counter_rng, registry
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.envs.workers.cores import usable_cores
from matrpo.errors import ConfigError
from matrpo.evaluation import evaluate, mean_interval
from matrpo.launch.commands.read import evaluate_run
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import resolve
from matrpo.spaces import Discrete, TaskSpec
from matrpo.training import InProcessTraining

SETTINGS = {"agents": 2, "topology": "line", "num_envs": 2, "rollout_length": 10, "steps": 20, "hidden_sizes": [4]}


class UnevenEnv(VectorEnv):
    """Episodes of 1 or 20 steps, as (seed, environment, episode) says, each of which pays 1 and 0.5."""

    spec = TaskSpec("uneven", ("a", "b"), (1, 1), (Discrete(2), Discrete(2)))
    statistics = ("length",)

    def __init__(self, num_envs: int, seed: int, first: int | None = None) -> None:
        self.num_envs = num_envs
        self._seed = seed
        self._number = np.arange(num_envs) + (first or 0)
        self._episode = np.full(num_envs, -1)
        self._left = np.zeros(num_envs, dtype=np.int64)
        self._lengths = np.zeros(num_envs, dtype=np.int64)

    def reset(self) -> list[np.ndarray]:
        self._begin(np.ones(self.num_envs, dtype=bool))
        return self.observe()

    def step(self, joint_action: np.ndarray) -> VectorStep:  # noqa: ARG002
        self._left -= 1
        over = self._left == 0
        statistics = self._lengths[:, np.newaxis].astype(np.float64)
        self._begin(over)
        ended = np.repeat(over[:, np.newaxis], 2, axis=1)
        observations = self.observe()
        rewards = np.tile([1.0, 0.5], (self.num_envs, 1))
        return VectorStep(observations, rewards, ended, np.zeros_like(ended), observations, statistics=statistics)

    def observe(self) -> list[np.ndarray]:
        return [np.zeros((self.num_envs, 1), dtype=np.float32)] * 2

    def _begin(self, which: np.ndarray) -> None:
        self._episode[which] += 1
        self._lengths = lengths(self._seed, self._number, self._episode)
        self._left = np.where(which, self._lengths, self._left)


def lengths(seed: int, numbers: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    return np.where(counter_rng.uniform(seed, numbers, episodes, draws=1)[0] < 0.5, 1, 20)


@pytest.fixture
def run(tmp_path, monkeypatch):
    for module in (matrpo.envs.build, matrpo.evaluation):
        monkeypatch.setattr(
            module, "build_envs", lambda _config, num_envs, seed, first=None, *_, **__: UnevenEnv(num_envs, seed, first)
        )
    run = RunDirectory.create(tmp_path / "run", resolve(("test", {**SETTINGS, "tensorboard": False})), {})
    InProcessTraining(run).run(lambda: False, lambda _: None)
    return run


def expected_mean(seed: int, episodes: int) -> float:
    """Environment b of B plays its first N // B episodes, and one more if b < N mod B."""
    num_envs = min(episodes, 100)
    played = [
        lengths(seed, np.full(own, b), np.arange(own))
        for b in range(num_envs)
        for own in [episodes // num_envs + (b < episodes % num_envs)]
    ]
    assert sum(map(len, played)) == episodes
    return 1.5 * float(np.concatenate(played).mean())


@pytest.mark.parametrize("episodes", [1, 7, 101, 230])
def test_the_episodes_that_count_do_not_depend_on_how_many_are_played_at_once(run, episodes):
    expected = expected_mean(run.config.seed + 1_000_003, episodes)
    result = evaluate(run, episodes)
    assert result.return_mean == pytest.approx(expected, rel=1e-12)
    assert result.episodes == episodes
    assert evaluate(run, episodes, num_envs=64) == evaluate(run, episodes, num_envs=3 + episodes // 3) == result
    assert result.per_agent == pytest.approx({"a": expected / 1.5, "b": expected / 3})
    length = result.statistics["length"]
    assert length.mean == pytest.approx(expected / 1.5)
    assert (length.ci95 is None) == (episodes == 1)


def test_environments_that_are_processes_are_as_many_at_once_as_cores(run, monkeypatch):
    built = []

    def make_env(run, num_envs, first):
        built.append(num_envs)
        return make(run, num_envs, first)

    whole, make = evaluate(run, 7), matrpo.evaluation._make_env
    monkeypatch.setattr(matrpo.evaluation, "most_at_once", lambda _task: 3)
    monkeypatch.setattr(matrpo.evaluation, "_make_env", make_env)
    assert evaluate(run, 7) == whole
    assert built == [3, 3, 1]
    assert registry.most_at_once("traffic/grid-2x2") == usable_cores()
    assert registry.most_at_once("navigation") is None


@pytest.mark.slow
def test_the_mean_is_of_the_same_episodes_for_any_number_of_them(run):
    for episodes in range(1, 251):
        expected = expected_mean(run.config.seed + 1_000_003, episodes)
        for num_envs in (100, 1 + episodes % 97):
            assert evaluate(run, episodes, num_envs=num_envs).return_mean == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [2, 3, 5, 20, 100])
def test_the_interval_holds_the_true_mean_19_times_in_20(count):
    values = np.random.default_rng(count).normal(3.0, 2.0, size=(2000, count))
    held = [low < 3.0 < high for low, high in map(mean_interval, values)]
    noise = np.sqrt(0.95 * 0.05 / 2000)
    assert abs(np.mean(held) - 0.95) < 3 * noise


def test_an_interval_of_two_is_12_7_standard_errors_wide_on_each_side():
    """The 97.5% point of Student's t with one degree of freedom, tan(0.475 pi)."""
    low, high = mean_interval(np.array([-1.0, 1.0]))
    assert (low, high) == pytest.approx((-np.tan(0.475 * np.pi), np.tan(0.475 * np.pi)))


def test_one_episode_has_no_interval(run):
    assert mean_interval(np.array([3.0])) is None
    printed = CliRunner().invoke(evaluate_run, [str(run.path), "--episodes", "1"]).output.splitlines()
    assert printed[:2] in (["return 1.50", "length 1.00"], ["return 30.00", "length 20.00"])
    document = CliRunner().invoke(evaluate_run, [str(run.path), "--episodes", "1", "--json"]).output
    assert json.loads(document)["return_ci95"] is None


def test_an_episode_that_outlasts_what_the_task_says_ends_the_evaluation(run, monkeypatch):
    monkeypatch.setattr(matrpo.evaluation, "_ENDLESS", 25)
    monkeypatch.setattr(UnevenEnv, "_begin", lambda self, _which: setattr(self, "_left", np.full(self.num_envs, 99)))
    for length, steps in ((None, 25), (20, 25), (40, 40)):
        monkeypatch.setattr(UnevenEnv, "spec", dataclasses.replace(UnevenEnv.spec, episode_length=length))
        with pytest.raises(ConfigError, match=rf"^an episode of uneven goes on after {steps} steps: --episode-length"):
            evaluate(run, 2)
