"""What a rollout bootstraps from at the ends of episodes and of the iteration."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from matrpo.decentralized.agent import Agent
from matrpo.envs.shared import AgentStep, SharedEnvironment
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.sampling.rollout import Rollout
from matrpo.settings.config import Config
from matrpo.settings.sections import NetworkSettings, SamplingSettings
from matrpo.spaces import Discrete, TaskSpec

SPEC = TaskSpec("test", ("a",), (1,), (Discrete(2),))
GAMMA, LAMBDA = 0.9, 0.8


class CountingCritic:
    """V(o) = o + what is remembered, which is 100 times the number of earlier observations of the episode."""

    def values(self, observations: torch.Tensor, starts: torch.Tensor, state: torch.Tensor):
        states, values = [state], []
        for observation, start in zip(observations, starts, strict=True):
            memory = states[-1].masked_fill(start.unsqueeze(1), 0.0)
            values.append(observation[:, 0] + memory[:, 0])
            states.append(memory + 100.0)
        return torch.stack(values), torch.stack(states)


class IdentityCritic:
    """V(o) = o, without a memory."""

    def values(self, observations: torch.Tensor, starts: torch.Tensor, state: torch.Tensor):  # noqa: ARG002
        return observations[..., 0], state.expand(len(observations) + 1, *state.shape)


def make_step(observation, reward=0.0, terminated=False, truncated=False, final=None):
    return AgentStep(
        observation=np.float32([[observation]]),
        reward=np.float32([reward]),
        reward_scale=np.float32([2.0]),
        terminated=np.array([terminated]),
        truncated=np.array([truncated]),
        final_observation=None if final is None else np.float32([[final]]),
        joint_action=np.float32([[1.0]]),
        action_mask=None,
    )


def rollout_of(*steps, state_size=0, chunk_length=1):
    """A rollout in which step t is the outcome of action t, and the policy's memory before it is t."""
    sampling = SamplingSettings(rollout_length=len(steps), num_envs=1)
    rollout = Rollout(0, SPEC, sampling, NetworkSettings(chunk_length=chunk_length), state_size)
    rollout.add_observation(make_step(1.0), torch.zeros(1, 1))
    for index, step in enumerate(steps):
        rollout.add_outcome(step)
        if index < len(steps) - 1:
            rollout.add_observation(step, torch.full((1, 1), index + 1.0))
    return rollout


def advantages_after(*steps):
    rollout = rollout_of(*steps)
    values = rollout.values(IdentityCritic(), torch.zeros(1, 0))  # type: ignore[arg-type]
    return rollout.advantages(values, GAMMA, LAMBDA)


@pytest.mark.parametrize(
    ("flags", "bootstrap"), [({"truncated": True}, GAMMA * 5.0), ({"terminated": True}, 0.0)], ids=["cut", "over"]
)
def test_the_end_of_an_episode(flags, bootstrap):
    advantages, returns = advantages_after(make_step(7.0, 4.0, final=5.0, **flags), make_step(9.0, 6.0))
    last = 3.0 + GAMMA * 9.0 - 7.0
    first = 2.0 + bootstrap - 1.0
    assert advantages.tolist() == pytest.approx([first, last])
    assert returns.tolist() == pytest.approx([first + 1.0, last + 7.0])


def test_an_episode_that_goes_on_is_bootstrapped_from_the_next_observation():
    advantages, _ = advantages_after(make_step(7.0, 4.0), make_step(9.0, 6.0))
    last = 3.0 + GAMMA * 9.0 - 7.0
    assert advantages.tolist() == pytest.approx([2.0 + GAMMA * 7.0 - 1.0 + GAMMA * LAMBDA * last, last])


@pytest.mark.parametrize("flag", ["truncated", "terminated"])
def test_a_value_after_the_end_of_an_episode_remembers_it_and_later_ones_do_not(flag):
    rollout = rollout_of(make_step(2.0), make_step(7.0, final=5.0, **{flag: True}), make_step(9.0), state_size=1)
    values = rollout.values(CountingCritic(), torch.full((1, 1), 300.0))  # type: ignore[arg-type]
    assert values.current.flatten().tolist() == [301.0, 402.0, 7.0]
    assert values.following.flatten().tolist() == [402.0, 505.0, 109.0]
    assert values.states.flatten().tolist() == [300.0, 400.0, 500.0, 100.0]


def test_samples_follow_one_another_in_chunks_that_begin_with_the_memory_of_their_time():
    steps = [make_step(2.0), make_step(7.0, truncated=True, final=5.0), make_step(9.0), make_step(3.0)]
    rollout = rollout_of(*steps, state_size=1, chunk_length=2)
    assert rollout.sequences.starts.flatten().tolist() == [False, False, True, False]
    assert rollout.sequences.states.flatten().tolist() == [0.0, 2.0]
    values = rollout.values(CountingCritic(), torch.zeros(1, 1))  # type: ignore[arg-type]
    assert rollout.critic_sequences(values).states.flatten().tolist() == [0.0, 200.0]
    assert rollout_of(*steps).sequences is None


class Corridor(VectorEnv):
    """An agent walks 1, 2, 3, 4, each step pays 1; at 4 the first environment terminates and the second is cut."""

    spec = TaskSpec("corridor", ("walker",), (1,), (Discrete(2),))
    num_envs = 2

    def reset(self):
        self.place = 1
        return self.observe()

    def observe(self):
        return [np.full((2, 1), self.place, np.float32)]

    def step(self, joint_action):
        self._check_action(joint_action)
        self.place += 1
        over = self.place == 4
        last = self.observe()
        observations = self.reset() if over else last
        terminated, truncated = np.array([[over], [False]]), np.array([[False], [over]])
        return VectorStep(observations, np.ones((2, 1)), terminated, truncated, last if over else None)


def test_in_an_agent_s_rollout_a_truncated_episode_bootstraps_from_its_last_observation_and_a_terminated_one_does_not():
    """The agent acts in the environment, through all that lies between them, for an episode and a third."""
    length = 4
    config = Config(agents=1, num_envs=2, rollout_length=length, hidden_sizes=(4,), gamma=GAMMA, gae_lambda=LAMBDA)
    environment = SharedEnvironment(Corridor(), GAMMA, reward_scaling=False)
    agent = Agent(0, 0.0, environment.spec, config)
    step = environment.reset()[0]
    for _ in range(length):
        [step] = environment.step(agent.act(step))
    agent.prepare_update(step, 1)
    values = agent._rollout.values(IdentityCritic(), torch.zeros(2, 0))  # type: ignore[arg-type]
    advantages, _ = agent._rollout.advantages(values, GAMMA, LAMBDA)

    def one_episode(end):
        third = 1 + end - 3
        second = 1 + GAMMA * 3 - 2 + GAMMA * LAMBDA * third
        return [1 + GAMMA * 2 - 1 + GAMMA * LAMBDA * second, second, third]

    next_episode = 1 + GAMMA * 2 - 1
    terminated, truncated = advantages.reshape(length, 2).T.tolist()
    assert terminated == pytest.approx([*one_episode(0.0), next_episode])
    assert truncated == pytest.approx([*one_episode(GAMMA * 4), next_episode])


def test_masks_that_come_and_go_are_those_of_each_step_alone():
    sampling = SamplingSettings(rollout_length=2, num_envs=1)
    rollout = Rollout(0, SPEC, sampling, NetworkSettings())
    first_action = np.array([[True, False]])
    for masks in ((None, first_action), (first_action, None), (None, None)):
        for mask in masks:
            rollout.add_observation(replace(make_step(1.0), action_mask=mask), torch.zeros(1, 0))
            rollout.add_outcome(make_step(1.0))
        expected = np.concatenate([np.ones((1, 2), dtype=bool) if mask is None else mask for mask in masks])
        np.testing.assert_array_equal(rollout.action_masks, expected)
