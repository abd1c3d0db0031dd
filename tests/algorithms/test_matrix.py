"""Every algorithm on every family of tasks that it supports: it trains, resumes bit for bit and evaluates."""

import numpy as np
import pytest
from marks import slow

from matrpo.envs.shared import holds_episodes
from matrpo.errors import ConfigError
from matrpo.evaluation import evaluate
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings import algorithm_names
from matrpo.settings.config import resolve
from matrpo.training import make_training

FAMILIES = {
    "navigation": ("navigation", 3),
    "treasure": ("treasure", 6),
    "discrete": ("mpe2/simple_spread_v3", 3),
    "continuous": ("mpe2/simple_spread_v3-continuous", 3),
    "heterogeneous": ("mpe2/simple_speaker_listener_v4", 2),
    "game": ("game/opposite-halves", 4),
    "pettingzoo": ("pettingzoo/mpe2.simple_spread_v3:parallel_env", 3),
    "mamujoco": ("mamujoco/HalfCheetah-2x3", 2),
    "smax": ("smax/3s_vs_5z", 3),
}
"""Tasks of all kinds, and their numbers of agents."""

DETERMINISTIC = {"smax"}
VALUE_BASED = {"continuous", "mamujoco"}
UNSUPPORTED = {
    **dict.fromkeys(("haddpg", "hatd3", "maddpg", "matd3"), DETERMINISTIC),
    **dict.fromkeys(("had3qn", "qmix"), VALUE_BASED),
}
"""Families that an algorithm refuses."""

SLOW = {"treasure", "mamujoco", "smax"}
"""Families that are a sibling's in all but size, or whose tasks take seconds to start."""

TINY = {
    "num_envs": 2,
    "rollout_length": 5,
    "chunk_length": 5,
    "steps": 30,
    "hidden_sizes": [4],
    "checkpoint_every": 3,
    "critic_epochs": 2,
    "tensorboard": False,
}


def pairs():
    for algo in algorithm_names.ALGORITHMS:
        for family in FAMILIES if algo != "matrpo" else ():
            marks = [pytest.mark.slow] if family in SLOW else []
            yield pytest.param(algo, family, marks=marks, id=f"{algo}-{family}")


def create(path, algo, family, **changes):
    task, agents = FAMILIES[family]
    topology = "line" if agents == 2 else "ring"
    settings = {**TINY, "algo": algo, "task": task, "agents": agents, "topology": topology, **changes}
    return RunDirectory.create(path, resolve(("test", settings)), {})


def train(run, start=0, stop_after=None):
    training = make_training(run, start)
    training.run(lambda: training.iteration == stop_after, lambda _: None)
    saved = holds_episodes(training.environment.state_dict())
    training.environment.env.close()
    return saved


def assert_same_checkpoints(left, right, iteration):
    for a, b in zip(left.processes().values(), right.processes().values(), strict=True):
        first, second = a.load_checkpoint(iteration)[0], b.load_checkpoint(iteration)[0]
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize(("algo", "family"), list(pairs()))
def test_an_algorithm_trains_resumes_and_evaluates_or_refuses(algo, family, tmp_path):
    whole = create(tmp_path / "whole", algo, family)
    if family in UNSUPPORTED.get(algo, ()):
        with pytest.raises(ConfigError):
            train(whole)
        return
    can_be_saved = train(whole)
    stopped = create(tmp_path / "stopped", algo, family)
    train(stopped, stop_after=2)
    train(RunDirectory.open(stopped.path), start=2)
    assert [line["iteration"] for line in stopped.agent(0).read_metrics()] == [1, 2, 3]
    if can_be_saved:
        assert_same_checkpoints(whole, stopped, 3)
    result = evaluate(whole, episodes=2)
    assert result.iteration == 3
    assert np.isfinite(result.return_mean)


@pytest.mark.parametrize("algo", ["happo", "ctrpo", *map(slow, ["hatrpo", "jrppo", "ippo", "fdmarl", "dnamarl"])])
def test_an_algorithm_with_a_memory_resumes(algo, tmp_path):
    settings = {"recurrent_layers": 1, "chunk_length": 5, "policy_batch": 5, "rollout_length": 10, "steps": 60}
    whole, stopped = (create(tmp_path / name, algo, "discrete", **settings) for name in ("whole", "stopped"))
    train(whole)
    train(stopped, stop_after=2)
    train(stopped, start=2)
    assert_same_checkpoints(whole, stopped, 3)


@pytest.mark.parametrize(
    ("algo", "agent_id"),
    [("mappo", False), ("mappo", True), ("ippo", False), ("jrppo", True), ("happo", False), ("maa2c", False)],
)
def test_an_algorithm_with_a_shared_policy_resumes(algo, agent_id, tmp_path):
    settings = {"share_parameters": True, "agent_id": agent_id}
    whole, stopped = (create(tmp_path / name, algo, "discrete", **settings) for name in ("whole", "stopped"))
    train(whole)
    train(stopped, stop_after=2)
    train(stopped, start=2)
    assert_same_checkpoints(whole, stopped, 3)
