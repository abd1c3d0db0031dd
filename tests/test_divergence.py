"""Observations and rewards that are finite, but larger than float32 can learn from: a run ends in one line."""

import numpy as np
import pytest

from matrpo.errors import TaskError
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.algorithm_names import ALGORITHMS
from matrpo.settings.config import resolve
from matrpo.training import make_training

TASK = """
import numpy as np

from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.spaces import Box, Discrete, TaskSpec


class Growing(VectorEnv):
    # What agents see is 1 in the first two iterations of four steps, and 1e30 from then on.
    def __init__(self, num_envs, space):
        self.num_envs, self.time = num_envs, 0
        self.spec = TaskSpec("growing", ("a", "b"), (1, 1), (space, space), 4)

    def reset(self):
        return self.observe()

    def observe(self):
        return [np.full((self.num_envs, 1), 1e30 if self.time >= 8 else 1.0, np.float32)] * 2

    def step(self, joint_action):
        self.time += 1
        rewards = np.tile((1.0, float(self.time % 4)), (self.num_envs, 1))
        ended = np.full((self.num_envs, 2), self.time % 4 == 0)
        final = self.observe() if ended.any() else None
        return VectorStep(self.observe(), rewards, np.zeros_like(ended), ended, final)


def discrete(num_agents, num_envs, seed):
    return Growing(num_envs, Discrete(3))


def box(num_agents, num_envs, seed):
    return Growing(num_envs, Box(1, -1.0, 1.0))
"""
SETTINGS = {"steps": 32, "num_envs": 2, "rollout_length": 4, "hidden_sizes": [4]}
OFF_POLICY = {"warmup_steps": 8, "batch_size": 8, "updates_per_step": 1.0}
EXTRA = {
    "matrpo": {"topology": "line"},
    "fdmarl": {"topology": "line"},
    "dnamarl": {"topology": "line"},
    "qmix": OFF_POLICY,
    "had3qn": OFF_POLICY,
    "haddpg": OFF_POLICY,
    "hatd3": OFF_POLICY,
    "hasac": OFF_POLICY,
    "maddpg": OFF_POLICY,
    "matd3": OFF_POLICY,
}
CONTINUOUS = {"haddpg", "hatd3", "maddpg", "matd3"}


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_run_that_diverges_ends_in_one_line_and_leaves_whole_checkpoints(tmp_path, algo):
    (tmp_path / "growing.py").write_text(TASK)
    task = f"{tmp_path}/growing.py:{'box' if algo in CONTINUOUS else 'discrete'}"
    settings = {**SETTINGS, "algo": algo, "task": task, "tensorboard": False, "feature_normalization": False}
    run = RunDirectory.create(tmp_path / "run", resolve(("test", {**settings, **EXTRA.get(algo, {})})), {})
    training = make_training(run)
    with pytest.raises(TaskError, match=rf"^task '{task}': learning has diverged in iteration \d+: .* is not finite"):
        training.run(lambda: False, lambda _: None)
    training.save()
    last = run.latest_common_iteration()
    assert last == training.iteration - 1 >= 1
    for process in run.processes().values():
        arrays, _ = process.load_checkpoint(last)
        assert all(np.isfinite(array).all() for array in arrays.values())
        assert max(line["iteration"] for line in process.read_metrics()) <= training.iteration
    assert not any(line["critic_loss"] is None for line in run.agent(0).read_metrics() if "critic_loss" in line)


def test_a_local_step_that_is_not_finite_is_not_sent_to_neighbours(tmp_path):
    (tmp_path / "growing.py").write_text(TASK)
    settings = {"agents": 2, "topology": "line", "solver": "cg", "task": f"{tmp_path}/growing.py:box"}
    run = RunDirectory.create(tmp_path / "run", resolve(("test", {**SETTINGS, **settings, "tensorboard": False})), {})
    training = make_training(run)
    with pytest.raises(TaskError, match="diverged in iteration 3: the step of agent 'a' is not finite"):
        training.run(lambda: False, lambda _: None)
