"""What the environment server shows to agents that all live: the task's own trajectory, whatever they repeat."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from marks import slow
from scripted_agents import CONFIG, Agents, line_cluster, scripted_agents

from matrpo.decentralized.lock_step.messages import Observation
from matrpo.envs.registry import make_env
from matrpo.envs.shared import AgentStep, SharedEnvironment
from matrpo.runs.run_directory import RunDirectory
from matrpo.spaces import Discrete, TaskSpec


def test_the_whole_run_in_lock_step(agents: Agents, small_run: RunDirectory) -> None:
    agents.join()
    for iteration, t in ((1, 0), (1, 1), (2, 0), (2, 1)):
        agents.act(0, iteration, t)
        assert agents.hears_nothing(0), "agent 1 has not acted"
        agents.act(1, iteration, t)
        assert [agents.observe(agent) for agent in range(2)] == [(iteration, t + 1)] * 2
    agents.finish()
    assert [line["iteration"] for line in small_run.env.read_metrics()] == [1, 2]
    assert small_run.env.checkpoint_iterations() == [1, 2]


def test_agents_receive_their_own_view_and_the_joint_action(agents: Agents) -> None:
    expected = make_env(CONFIG.task, 2, CONFIG.num_envs, CONFIG.seed)
    first = expected.reset()
    second = expected.step(np.tile(np.array([[1, 2]], np.float32), (CONFIG.num_envs, 1)))
    for agent in range(2):
        agents.hello(agent)
    for agent in range(2):
        message = agents.hear(agent)
        assert isinstance(message, Observation)
        np.testing.assert_array_equal(message.step.observation, first[agent])
    agents.act(0, 1, 0, index=1)
    agents.act(1, 1, 0, index=2)
    for agent in range(2):
        message = agents.hear(agent)
        assert isinstance(message, Observation)
        np.testing.assert_array_equal(message.step.observation, second.observations[agent])
        np.testing.assert_array_equal(message.step.reward, second.rewards[:, agent].astype(np.float32))
        np.testing.assert_array_equal(message.step.joint_action, [[1, 2]] * CONFIG.num_envs)


MASKED = """
import numpy as np
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.spaces import Discrete, TaskSpec

class Masked(VectorEnv):
    spec = TaskSpec("masked", ("a", "b", "c"), (1, 2, 1), (Discrete(3),) * 3)
    def __init__(self, num_envs):
        self.num_envs, self.time = num_envs, 0
    def reset(self):
        self.time = 0
        return self.observe()
    def observe(self):
        return [np.full((self.num_envs, size), self.time, np.float32) for size in (1, 2, 1)]
    def action_masks(self):
        return [np.tile(np.arange(3) != (self.time + q) % 3, (self.num_envs, 1)) for q in range(3)]
    def step(self, joint_action):
        self.time += 1
        ended, last = np.full((self.num_envs, 3), self.time == 7), self.observe()
        self.time %= 7
        rewards = joint_action + 0.25 * np.arange(3)
        return VectorStep(self.observe(), rewards, ended, np.zeros_like(ended), last if ended.all() else None)

def make(num_agents, num_envs, seed):
    return Masked(num_envs)
"""
"""A task whose agents may do something else in each step, and end after 7."""


@pytest.mark.parametrize(
    ("task", "agents", "reward"),
    [
        ("navigation", 2, "own"),
        ("treasure", 4, "own"),
        ("game/differentiable", 2, "own"),
        ("game/opposite-halves", 2, "own"),
        ("mpe2/simple_spread_v3", 2, "own"),
        ("mpe2/simple_speaker_listener_v4-continuous", 2, "own"),
        ("mpe2/simple_push_v3", 2, "own"),
        ("mamujoco/Hopper-3x1", 3, "own"),
        ("masked", 3, "one-agent"),
        slow("smax/3s_vs_5z", 3, "one-agent"),
        ("pettingzoo/mpe2.simple_crypto_v3:parallel_env", 3, "own"),
    ],
)
def test_a_trajectory_is_bit_for_bit_that_of_the_task_stepped_directly(
    task: str, agents: int, reward: str, tmp_path: Path
) -> None:
    if task == "masked":
        (tmp_path / "masked.py").write_text(MASKED)
        task = f"{tmp_path}/masked.py:make"
    length, num_envs = 110, 2
    config = dataclasses.replace(
        CONFIG,
        task=task,
        agents=agents,
        reward=reward,
        num_envs=num_envs,
        rollout_length=length,
        steps=length * num_envs,
    )
    env = make_env(task, agents, num_envs, config.seed)
    direct = SharedEnvironment(env, config.gamma, config.reward_scaling, reward)
    spec = direct.spec
    actions = random_actions(spec, length, num_envs)
    run = RunDirectory.create(tmp_path / "run", config, {})
    expected = direct.reset()
    with scripted_agents(run, line_cluster(run, tmp_path)) as peers:
        for agent in range(agents):
            peers.hello(agent)
        for t in range(length + 1):
            for agent in range(agents):
                message = peers.hear(agent)
                assert isinstance(message, Observation)
                assert message.t == t
                peers.number = message.attempt
                assert_same_bits(message.step, expected[agent])
                assert (message.step.action_mask is not None) == ("mask" in task or "smax" in task)
            if t < length:
                for agent in range(agents):
                    peers.do(agent, 1, t, actions[t][:, spec.action_slices[agent]])
                expected = direct.step(actions[t])
        peers.finish()
    env.close()


def random_actions(spec: TaskSpec, length: int, num_envs: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    actions = np.empty((length, num_envs, spec.joint_action_width), np.float32)
    for space, part in zip(spec.action_spaces, spec.action_slices, strict=True):
        shape = actions[..., part].shape
        actions[..., part] = rng.integers(0, space.n, shape) if isinstance(space, Discrete) else rng.normal(size=shape)
    return actions


def assert_same_bits(one: AgentStep, other: AgentStep) -> None:
    for field in dataclasses.fields(AgentStep):
        left, right = getattr(one, field.name), getattr(other, field.name)
        assert (left is None) == (right is None), field.name
        if left is not None:
            assert (left.dtype, left.shape) == (right.dtype, right.shape), field.name
            assert left.tobytes() == right.tobytes(), field.name


def test_late_early_and_repeated_actions_change_nothing(agents: Agents) -> None:
    agents.join()
    agents.act(0, 1, 1)
    agents.act(0, 2, 0)
    agents.act(0, 0, 0)
    agents.act(1, 1, 0)
    assert agents.hears_nothing(1), "none of them was agent 0's action at (1, 0)"
    agents.act(0, 1, 0)
    agents.act(0, 1, 0)
    assert [agents.observe(agent) for agent in range(2)] == [(1, 1), (1, 1)]
    agents.act(1, 1, 1)
    assert agents.hears_nothing(1), "the repeated action was for the step before"


def test_an_agent_that_repeats_itself_is_told_again(agents: Agents) -> None:
    agents.join()
    for agent in range(2):
        agents.act(agent, 1, 0)
    assert [agents.observe(agent) for agent in range(2)] == [(1, 1), (1, 1)]
    agents.hello(0)  # as if it had not heard that
    agents.act(0, 1, 0)
    assert agents.observe(0) == (1, 1)
    agents.act(0, 1, 1)
    agents.hello(0)
    assert agents.hears_nothing(0), "its action is here: there is nothing new to tell"


def test_a_resumed_server_shows_what_it_showed_last(small_run: RunDirectory, tmp_path: Path) -> None:
    shown = []
    for start in (0, 1):
        small_run.rewind(start)
        with scripted_agents(small_run, line_cluster(small_run, tmp_path)) as agents:
            agents.join(start + 1)
            for iteration in range(start + 1, 3):
                for t in range(2):
                    for agent in range(2):
                        agents.act(agent, iteration, t, index=iteration + t)
                    for agent in range(2):
                        message = agents.hear(agent)
                        assert isinstance(message, Observation)
            shown.append(message.step.observation)
            agents.finish()
    np.testing.assert_array_equal(shown[0], shown[1])
