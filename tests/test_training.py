"""A run in one process: its files, its determinism, its resumption, and the evaluation of what it learned."""

import json

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from matrpo.envs.build import build_environment
from matrpo.envs.games import GameEnv
from matrpo.errors import ConfigError
from matrpo.evaluation import evaluate, render_episode
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import resolve
from matrpo.training import InProcessTraining, make_training

SETTINGS = {
    "agents": 3,
    "num_envs": 4,
    "rollout_length": 50,
    "steps": 800,
    "hidden_sizes": [8],
    "checkpoint_every": 2,
    "tensorboard": False,
}


def create(path, **changes):
    return RunDirectory.create(path, resolve(("test", {**SETTINGS, **changes})), {})


def train(run, start=0, stop_after=None):
    training = InProcessTraining(run, start)
    training.run(lambda: training.iteration == stop_after, lambda _: None)
    return training


def arrays_at(run, iteration):
    return [process.load_checkpoint(iteration)[0] for process in run.processes().values()]


def assert_same_states(left, right):
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = create(tmp_path_factory.mktemp("runs") / "finished")
    train(run)
    return run


def test_every_process_leaves_metrics_and_checkpoints(finished):
    for process in finished.processes().values():
        assert [line["iteration"] for line in process.read_metrics()] == [1, 2, 3, 4]
        assert process.checkpoint_iterations() == [2, 4]
    line = finished.agent(1).read_metrics()[-1]
    assert line["kl"] > 0
    assert line["commits"] > 0
    assert finished.env.read_metrics()[1]["episodes"] == 4


def test_every_agent_says_how_long_it_learned(finished):
    phases = ("seconds_prepare", "seconds_consensus", "seconds_finish")
    assert all(line[phase] > 0 for q in range(3) for line in finished.agent(q).read_metrics() for phase in phases)


def test_two_runs_are_equal_bit_for_bit(finished, tmp_path):
    again = create(tmp_path / "again")
    train(again)
    assert_same_states(arrays_at(finished, 4), arrays_at(again, 4))


@pytest.mark.parametrize("interrupted_after", [1, 2, 3])
def test_a_resumed_run_equals_the_uninterrupted_one(finished, tmp_path, interrupted_after):
    run = create(tmp_path / "interrupted")
    train(run, stop_after=interrupted_after)
    start = run.latest_common_iteration()
    assert start == interrupted_after
    run.rewind(start)
    train(run, start)
    assert_same_states(arrays_at(finished, 4), arrays_at(run, 4))


@pytest.mark.parametrize(
    "changes",
    [
        {"topology": "none"},
        {"topology": "line"},
        {"schedule": "matchings"},
        {"schedule": "poisson"},
        {"wire_dtype": "float16"},
    ],
)
def test_runs_with_other_links(tmp_path, changes):
    run = create(tmp_path / "run", **changes)
    train(run)
    commits = run.agent(0).read_metrics()[-1]["commits"]
    assert (commits == 0) == (changes.get("topology") == "none")
    assert all(line["kl"] <= run.config.backtrack_kl * run.config.kl_step for line in run.agent(0).read_metrics())


@pytest.mark.parametrize("task", ["mpe2/simple_speaker_listener_v4", "mpe2/simple_spread_v3"])
def test_pettingzoo_tasks_train(tmp_path, task):
    agents = {"agents": 2, "topology": "line"} if "speaker" in task else {}
    run = create(tmp_path / "run", task=task, steps=200, **agents)
    train(run)
    assert run.env.read_metrics()[-1]["episodes"] == 8
    assert evaluate(run, episodes=5).episodes == 5


@pytest.mark.parametrize("task", ["game/differentiable", "game/miscoordination"])
def test_a_resumed_run_of_a_game_equals_the_uninterrupted_one(tmp_path, task):
    changes = {"task": task, "agents": 2, "topology": "line"}
    whole, stopped = (create(tmp_path / name, **changes) for name in ("whole", "stopped"))
    train(whole)
    train(stopped, stop_after=2)
    train(stopped, start=2)
    assert whole.env.read_metrics()[-1]["episodes"] == 200
    assert_same_states(arrays_at(whole, 4), arrays_at(stopped, 4))


def test_evaluation_counts_whole_episodes_and_repeats(finished):
    result = evaluate(finished, episodes=7)
    assert result == evaluate(finished, episodes=7)
    assert result.episodes == 7
    low, high = result.return_ci95
    assert low < result.return_mean < high
    assert sum(result.per_agent.values()) == pytest.approx(result.return_mean)
    assert result.return_mean != evaluate(finished, episodes=7, deterministic=False).return_mean


def test_an_episode_is_rendered(finished, tmp_path):
    path = tmp_path / "episode.gif"
    assert render_episode(finished, path) == 100
    with Image.open(path) as image:
        assert image.n_frames > 50
    assert render_episode(finished, path.with_suffix(".mp4")) == 100
    assert imageio_ffmpeg.count_frames_and_secs(path.with_suffix(".mp4"))[0] == 100
    with pytest.raises(ConfigError, match=r"ends in \.gif or \.mp4"):
        render_episode(finished, tmp_path / "episode.avi")
    with pytest.raises(ConfigError, match="cannot write"):
        render_episode(finished, tmp_path / "missing" / "episode.gif")


def test_a_task_that_cannot_be_drawn_is_a_mistake_before_anything_is_played(tmp_path, monkeypatch):
    run = create(tmp_path / "run", task="game/differentiable", agents=2, topology="line", steps=200)
    train(run)
    monkeypatch.delattr(GameEnv, "step")
    with pytest.raises(ConfigError, match="task 'game/differentiable' cannot be drawn"):
        render_episode(run, tmp_path / "episode.mp4")
    assert not (tmp_path / "episode.mp4").exists()


def test_nothing_to_evaluate_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no checkpoint"):
        evaluate(create(tmp_path / "empty"))


def test_a_checkpoint_of_another_task_is_refused(finished, tmp_path):
    run = create(tmp_path / "other", agents=4)
    for name, process in run.processes().items():
        source = finished.processes().get(name, finished.agent(0))
        arrays, meta = source.load_checkpoint(4)
        process.save_checkpoint(4, arrays, meta)
    with pytest.raises(ConfigError, match="does not fit"):
        evaluate(run)


def test_settings_are_stored_as_they_were_resolved(finished):
    assert RunDirectory.open(finished.path).config == finished.config
    assert json.loads((finished.agent(0).path / "checkpoint-000004.json").read_text())["iteration"] == 4


UNSEEDED = """
import random
import numpy as np
import torch
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.spaces import Discrete, TaskSpec

class Unseeded(VectorEnv):
    spec = TaskSpec("unseeded", ("a", "b"), (4, 4), (Discrete(2), Discrete(2)))
    def __init__(self, num_envs):
        self.num_envs, self.map = num_envs, np.random.random()
    def number_from(self, first):
        pass
    def reset(self):
        return self.observe()
    def observe(self):
        drawn = [self.map, random.random(), np.random.random(), float(torch.rand(()))]
        return [np.full((self.num_envs, 4), drawn, dtype=np.float32)] * 2
    def step(self, joint_action):
        ended = np.ones((self.num_envs, 2), dtype=bool)
        rewards = np.random.random((self.num_envs, 2))
        return VectorStep(self.observe(), rewards, ended, ~ended, self.observe())

def make(num_agents, num_envs, seed):
    return Unseeded(num_envs)
"""


@pytest.fixture
def unseeded(tmp_path):
    """A task that draws from the generators that everything in a process shares."""
    (tmp_path / "unseeded.py").write_text(UNSEEDED)
    return {"task": f"{tmp_path}/unseeded.py:make", "agents": 2, "topology": "line", "steps": 400}


@pytest.mark.parametrize("algo", ["matrpo", "mappo"])
def test_tasks_that_draw_from_global_generators_repeat(tmp_path, unseeded, algo):
    """However much of them was drawn before, and by another seed they differ."""
    if algo == "mappo":
        del unseeded["topology"]
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        run = create(tmp_path / name, algo=algo, seed=seed, **unseeded)
        make_training(run).run(lambda: False, lambda _: None)
    one, same, other = (RunDirectory.open(tmp_path / name) for name in ("one", "same", "other"))
    assert_same_states(arrays_at(one, 2), arrays_at(same, 2))
    returns = [[line["team_return_mean"] for line in run.env.read_metrics()] for run in (one, same, other)]
    assert returns[0] == returns[1] != returns[2]
    assert evaluate(one, episodes=7) == evaluate(same, episodes=7)


def test_each_server_s_global_generators_have_a_seed_of_their_own(unseeded):
    config = resolve(("test", {**SETTINGS, **unseeded, "env_servers": 2}))
    parts = [build_environment(config, server=server).reset() for server in (0, 1, 0, 1)]
    first, second, again, again_second = (part[0].observation for part in parts)
    assert not np.isin(first[0], second[0]).any()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(second, again_second)
    assert len(np.unique(first[0])) == 4
