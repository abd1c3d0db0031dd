"""Copies of PettingZoo environments in worker processes: the same steps as in one process, and clear failures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from matrpo.envs.registry import make_env, task_spec
from matrpo.envs.vector_env import VectorEnv
from matrpo.envs.workers.worker_env import WorkerEnv
from matrpo.errors import TaskError

SOURCE = '''
import os
import time
import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

class Task(ParallelEnv):
    """Two agents; b leaves early and comes back, masks change, episodes have different lengths."""
    metadata = {"name": "task", "render_modes": []}
    possible_agents = ["a", "b"]

    def observation_space(self, agent):
        return Box(0.0, 1.0, (2,), np.float32)

    def action_space(self, agent):
        return Discrete(3)

    def reset(self, seed=None, options=None):
        self.random = np.random.default_rng(seed)
        self.length, self.time = int(self.random.integers(3, 9)), 0
        self.agents = ["a", "b"]
        return self.told(), self.infos()

    def told(self):
        return {a: self.random.random(2, dtype=np.float32) for a in self.possible_agents}

    def infos(self):
        return {a: {"action_mask": np.array([1, self.time % 2, 1])} for a in self.possible_agents if a == "a"}

    def step(self, actions):
        self.time += 1
        names, over = self.agents, self.time == self.length
        out = {a: a == "b" and self.time == 2 for a in names}
        self.agents = [] if over else [a for a in self.possible_agents if a == "a" or self.time != 2]
        rewards = {a: float(self.random.random()) + actions.get(a, 0) for a in self.possible_agents}
        return self.told(), rewards, out, {a: over and not out[a] for a in names}, self.infos()

class Fails(Task):
    def step(self, actions):
        if self.time == 2:
            raise RuntimeError("the simulator\\nlost its connection")
        return super().step(actions)

class Exits(Task):
    def step(self, actions):
        if self.time == 2:
            os._exit(7)
        return super().step(actions)

class Hangs(Task):
    def step(self, actions):
        time.sleep(30.0 if self.time == 2 else 0.0)
        return super().step(actions)

class Spoils(Task):
    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, rewards | ({"a": np.nan} if self.time == 3 else {}), *rest

def make(num_agents, num_envs, seed): return Task
def fails(num_agents, num_envs, seed): return Fails
def exits(num_agents, num_envs, seed): return Exits
def hangs(num_agents, num_envs, seed): return Hangs
def spoils(num_agents, num_envs, seed): return Spoils
'''


@pytest.fixture
def task(tmp_path: Path) -> str:
    file = tmp_path / "task.py"
    file.write_text(SOURCE)
    return str(file)


def roll(env: VectorEnv, steps: int) -> list[np.ndarray]:
    """All that an environment hands over in some steps."""
    random = np.random.default_rng(0)
    handed = list(env.reset())
    try:
        for _ in range(steps):
            choices = random.integers(0, 3, (env.num_envs, env.spec.joint_action_width))
            step = env.step(np.where(choices == 1, 0, choices).astype(np.float32))
            assert step.alive is not None
            handed += [*step.observations, step.rewards, step.terminated, step.truncated, step.alive, step.ended]
            handed += [*(step.final_observations or []), *(m for m in env.action_masks() if m is not None)]
            handed.append(env.present())  # type: ignore[arg-type]
    finally:
        env.close()
    return handed


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_step_as_one_process_does(workers: int, task: str) -> None:
    alone = roll(make_env(f"{task}:make", None, 5, seed=3), 20)
    dealt = roll(make_env(f"{task}:make", None, 5, seed=3, workers=workers), 20)
    assert len(alone) == len(dealt)
    for one, other in zip(alone, dealt, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def test_a_part_of_a_batch_is_dealt_out_too(task: str) -> None:
    whole = roll(make_env(f"{task}:make", None, 3, seed=3, first=4), 10)
    dealt = roll(make_env(f"{task}:make", None, 3, seed=3, first=4, workers=2, episode_length=100), 10)
    assert all(np.array_equal(one, other) for one, other in zip(whole, dealt, strict=True))


def test_episodes_are_cut_off_in_workers(task: str) -> None:
    env = make_env(f"{task}:make", None, 2, seed=3, workers=2, episode_length=2)
    assert env.spec.episode_length == 2
    env.reset()
    env.step(env.spec.noop(2))
    step = env.step(env.spec.noop(2))
    env.close()
    assert step.ended.all()
    assert step.truncated.tolist() == [[True, False]] * 2
    assert step.terminated.tolist() == [[False, True]] * 2


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("fails", "step() raised RuntimeError: the simulator lost its connection"),
        ("exits", "the worker of environments 0 to 1 is gone (exit status 7)"),
        ("spoils", "the reward of agent 'a' is nan; expected a finite number"),
    ],
)
def test_what_goes_wrong_in_a_worker_is_one_line(factory: str, words: str, task: str) -> None:
    env = make_env(f"{task}:{factory}", None, 4, seed=3, workers=2)
    with pytest.raises(TaskError) as caught:
        roll(env, 4)
    assert words in str(caught.value)
    assert "environment" in str(caught.value)
    assert str(caught.value).count("task ") == 1
    assert "\n" not in str(caught.value)


def test_a_worker_that_hangs_is_named_and_ended(task: str) -> None:
    env = WorkerEnv(task_spec(f"{task}:hangs", None), num_envs=2, seed=3, workers=1, deadline=5.0)
    env.reset()
    env.step(env.spec.noop(2))
    env.step(env.spec.noop(2))
    env._workers[0]._deadline = 0.2
    process = env._workers[0]._process
    with pytest.raises(TaskError, match=r"the worker of environments 0 to 1 hangs: no answer in 0\.2 s"):
        env.step(env.spec.noop(2))
    env.close()
    assert process.returncode == -9
