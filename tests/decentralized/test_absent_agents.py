"""Agents that have left an episode: what MATRPO learns of the steps after that."""

from pathlib import Path

import numpy as np
import pytest
import torch

from matrpo.decentralized.agent import Agent
from matrpo.envs.build import build_environment
from matrpo.envs.shared import SharedEnvironment
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.settings.config import resolve
from matrpo.spaces import Box, Discrete, MultiDiscrete, TaskSpec

LEAVER, LENGTH = 2, 5


class Leaving(VectorEnv):
    """Three agents; the last leaves after two of an episode's five steps. All are paid at random."""

    num_envs = 2

    def __init__(self, space):
        self.spec = TaskSpec("leaving", ("a", "b", "leaver"), (3,) * 3, (Discrete(3), Discrete(3), space))
        self._rng = np.random.default_rng(0)
        self._time = 0

    def reset(self):
        self._time = 0
        return self.observe()

    def observe(self):
        there = [1.0, 1.0, float(self._time < 2)]
        return [there[q] * self._rng.normal(size=(2, 3)).astype(np.float32) for q in range(3)]

    def step(self, joint_action):
        self._check_action(joint_action)
        self._time += 1
        terminated = np.zeros((2, 3), dtype=bool)
        terminated[:, LEAVER] = self._time == 2
        truncated = np.full((2, 3), self._time == LENGTH)
        rewards = self._rng.normal(size=(2, 3)) * [1.0, 1.0, float(self._time <= 2)]
        final = self.observe() if truncated.any() else None
        observations = self.reset() if truncated.any() else self.observe()
        return VectorStep(observations, rewards, terminated, truncated, final)


@pytest.mark.parametrize("space", [Discrete(4), MultiDiscrete((2, 3))], ids=["discrete", "factors"])
def test_an_agent_learns_nothing_of_what_it_chose_after_it_left(space):
    config = resolve(("test", {"num_envs": 2, "rollout_length": 20, "hidden_sizes": [8], "agents": 3}))
    env = Leaving(space)
    shared = SharedEnvironment(env, config.gamma, True, absent_idle=True)
    agents = [Agent(q, 0.02, env.spec, config) for q in range(3)]
    steps = shared.reset()
    present = []
    for _ in range(config.rollout_length):
        present.append(shared.present[:, LEAVER])
        actions = [agent.act(step) for agent, step in zip(agents, steps, strict=True)]
        steps = shared.step(np.concatenate(actions, axis=1))
    leaver = agents[LEAVER]
    leaver.prepare_update(steps[LEAVER], 1)
    gone = torch.from_numpy(~np.concatenate(present))
    assert 0 < int(gone.sum()) < len(gone)
    assert not leaver.rollout.joint_actions[gone][:, env.spec.action_slices[LEAVER]].any(), "it does nothing"
    of_the_gone = torch.zeros(3, config.samples)
    of_the_gone[LEAVER] = gone.float()
    model = leaver.update.model
    assert not model.vjp(of_the_gone).any()
    assert not model.jvp(torch.ones_like(model.parameters))[LEAVER, gone].any()
    assert model.vjp(of_the_gone.roll(1, 0)).any(), "what the others chose counts"
    with torch.no_grad():
        for parameter in leaver.policy.parameters():
            parameter += 0.5
    kl = model.distribution.kl_to(leaver.policy.distribution(leaver.rollout.observations, leaver.rollout.action_masks))
    assert not kl[gone, LEAVER].any()
    assert kl[~gone, LEAVER].all()


@pytest.mark.parametrize(("algo", "idle"), [("matrpo", True), ("dnamarl", True), ("mappo", False)])
def test_it_is_agents_who_learn_alone_that_are_told(algo, idle, tmp_path):
    file = tmp_path / "leaving.py"
    file.write_text(
        Path(__file__).read_text() + "\n\ndef make(num_agents, num_envs, seed):\n    return Leaving(Discrete(4))\n"
    )
    shared = build_environment(resolve(("test", {"algo": algo, "task": f"{file}:make", "num_envs": 2})))
    shared.reset()
    masks = [step.action_mask for _ in range(3) for step in shared.step(np.zeros((2, 3), np.float32))]
    assert [mask is not None for mask in masks] == [False] * 5 + [idle] + [False] * 2 + [idle]


def test_actions_of_a_box_have_no_masks():
    shared = SharedEnvironment(Leaving(Box(1, -1.0, 1.0)), 0.9, True, absent_idle=True)
    shared.reset()
    steps = [shared.step(np.zeros((2, 3), np.float32)) for _ in range(3)]
    assert [step.action_mask for step in steps[-1]] == [None] * 3
