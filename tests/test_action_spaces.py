"""Bounds away from zero and actions of several factors, from the task to the evaluation of what was learned."""

import pytest

from matrpo.evaluation import evaluate
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import resolve
from matrpo.training import make_training

TASKS = """
import numpy as np

from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.spaces import Box, Discrete, MultiDiscrete, TaskSpec


class OneStep(VectorEnv):
    def __init__(self, num_envs, *spaces):
        self.num_envs = num_envs
        self.spec = TaskSpec("one-step", ("a", "b"), (1, 1), spaces, 1)

    def reset(self):
        return self.observe()

    def observe(self):
        return [np.ones((self.num_envs, 1), np.float32)] * 2

    def step(self, joint_action):
        self._check_action(joint_action)
        ended = np.ones((self.num_envs, 2), dtype=bool)
        return VectorStep(self.observe(), self.rewards(joint_action), ended, ~ended, self.observe())


class Drive(OneStep):
    # The best throttle is 0.25 of 0 to 1 and the best speed 160 of 100 to 200; either bound of one costs 0.25 or more.
    def rewards(self, actions):
        clipped = np.clip(actions.reshape(-1, 2, 2), (0.0, 100.0), (1.0, 200.0))
        return -np.abs(clipped - (0.25, 160.0)) @ np.array([1.0, 0.02])


class Choose(OneStep):
    # Paid is 1 if all choices of all agents are right, less a fifth for each that is not.
    def rewards(self, actions):
        right = 1.0 - 0.2 * (actions != (2, 1, 0, 1, 1)).sum(axis=1)
        return np.stack([right, 0.0 * right], axis=1)


class Allowed(Choose):
    # The right choice of the second factor is ruled out: at most 0.8 can be had.
    def action_masks(self):
        row = np.array([False, True, True, True, False])
        return [np.tile(row, (self.num_envs, 1)), None]

    def rewards(self, actions):
        assert (actions[:, 0] > 0).all() and (actions[:, 1] == 0).all()
        return super().rewards(actions)


def drive(num_agents, num_envs, seed):
    return Drive(num_envs, Box(2, (0.0, 100.0), (1.0, 200.0)), Box(2, (0.0, 100.0), (1.0, 200.0)))


def choose(num_agents, num_envs, seed):
    return Choose(num_envs, MultiDiscrete((3, 2)), MultiDiscrete((2, 2, 2)))


def allowed(num_agents, num_envs, seed):
    return Allowed(num_envs, MultiDiscrete((3, 2)), MultiDiscrete((2, 2, 2)))
"""

ON_POLICY = {
    "matrpo": {"topology": "line", "kl_step": 0.05},
    "mappo": {"actor_lr": 0.02},
    "happo": {"actor_lr": 0.02},
    "ctrpo": {"kl_step": 0.05},
}
OFF_POLICY = {"hidden_sizes": [32, 32], "warmup_steps": 1000, "batch_size": 50, "updates_per_step": 2.0, "steps": 4000}
CONTINUOUS = {**OFF_POLICY, "actor_lr": 0.005, "critic_lr": 0.01, "exploration_noise": 0.3}
DISCRETE = {**OFF_POLICY, "critic_lr": 0.01, "feature_normalization": False}
slow = pytest.mark.slow


def learned(folder, algo, task, settings):
    """The mean return of the most probable actions after training."""
    (folder / "tasks.py").write_text(TASKS)
    named = {"algo": algo, "agents": 2, "task": f"{folder / 'tasks.py'}:{task}", "tensorboard": False}
    sizes = {"steps": 2400, "num_envs": 20, "rollout_length": 20, "hidden_sizes": [16]}
    run = RunDirectory.create(folder / "run", resolve(("test", {**named, **sizes, **settings})), {})
    make_training(run).run(stop=lambda: False, on_iteration=lambda _: None)
    return evaluate(run, 5).return_mean


@pytest.mark.parametrize(
    ("algo", "settings"),
    [
        ("matrpo", ON_POLICY["matrpo"]),
        pytest.param("happo", ON_POLICY["happo"], marks=slow),
        pytest.param("haddpg", CONTINUOUS, marks=slow),
        pytest.param("hatd3", CONTINUOUS, marks=slow),
        pytest.param("hasac", {**CONTINUOUS, "temperature": 0.01}, marks=slow),
    ],
)
def test_what_lies_between_bounds_far_from_zero_is_found(tmp_path, algo, settings):
    assert learned(tmp_path, algo, "drive", settings) > -0.15


@pytest.mark.parametrize(
    ("algo", "settings"),
    [
        ("mappo", ON_POLICY["mappo"]),
        pytest.param("matrpo", ON_POLICY["matrpo"], marks=slow),
        pytest.param("ctrpo", ON_POLICY["ctrpo"], marks=slow),
        pytest.param("haddpg", {**DISCRETE, "actor_lr": 0.005}, marks=slow),
        pytest.param("hasac", {**DISCRETE, "actor_lr": 0.005}, marks=slow),
        pytest.param("had3qn", {**DISCRETE, "actor_lr": 0.005, "epsilon_steps": 1000}, marks=slow),
        pytest.param("qmix", {**DISCRETE, "epsilon_steps": 1000}, marks=slow),
    ],
)
def test_all_factors_of_all_agents_are_chosen_right(tmp_path, algo, settings):
    assert learned(tmp_path, algo, "choose", settings) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("algo", "settings"),
    [
        ("matrpo", ON_POLICY["matrpo"]),
        pytest.param("mappo", ON_POLICY["mappo"], marks=slow),
        pytest.param("ctrpo", ON_POLICY["ctrpo"], marks=slow),
        pytest.param("hasac", {**DISCRETE, "actor_lr": 0.005}, marks=slow),
        pytest.param("had3qn", {**DISCRETE, "actor_lr": 0.005, "epsilon_steps": 1000}, marks=slow),
        pytest.param("qmix", {**DISCRETE, "epsilon_steps": 1000}, marks=slow),
    ],
)
def test_masks_of_factors_hold_and_the_best_of_what_is_allowed_is_chosen(tmp_path, algo, settings):
    assert learned(tmp_path, algo, "allowed", settings) == pytest.approx(0.8)
