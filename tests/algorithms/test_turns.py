"""Agents that wait for their turn, agents without masks beside others with them, and numbers that are not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from learning import Learning

from matrpo.algorithms.shared.learner import Samples, merge
from matrpo.build import build_algorithm
from matrpo.decentralized.agent import Agent
from matrpo.envs.conformance.guarded import GuardedEnv
from matrpo.envs.shared import SharedEnvironment
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.errors import ConfigError, TaskError
from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.linearized_policy import LinearizedPolicy
from matrpo.sampling.acting import Actors
from matrpo.settings.algorithm_names import ALGORITHMS, is_central
from matrpo.settings.config import Config, resolve
from matrpo.settings.sections import NetworkSettings
from matrpo.spaces import Discrete, TaskSpec

CENTRAL = [name for name in ALGORITHMS if is_central(name)]
WITHOUT_MASKS = ("haddpg", "hatd3", "maddpg", "matd3")
OFF_POLICY = ("had3qn", "hasac", "qmix")


class Turns(VectorEnv):
    """Two agents, of which one may act at a time, never by action 0; episodes of 4 steps; each step pays all 1.

    Args:
        masked: whether it says so by masks.
        bad: number of the step, from 1, in which a reward is not a number.
    """

    spec = TaskSpec("turns", ("first", "second"), (1, 1), (Discrete(3), Discrete(3)))
    num_envs = 4

    def __init__(self, masked: bool = True, bad: int = 0) -> None:
        self.masked, self.bad = masked, bad
        self.time = 0

    def reset(self) -> list[np.ndarray]:
        self.time = 0
        return self.observe()

    def observe(self) -> list[np.ndarray]:
        return [np.full((4, 1), self.time % 4, np.float32) for _ in range(2)]

    def action_masks(self) -> list[np.ndarray | None]:
        turn = np.array([False, True, True])
        return [np.tile(turn & (self.time % 2 == q), (4, 1)) if self.masked else None for q in range(2)]

    def step(self, joint_action: np.ndarray) -> VectorStep:
        for q, mask in enumerate(self.action_masks()):
            if mask is not None:
                chosen = joint_action[:, q].astype(int)
                assert (mask[np.arange(4), chosen] | (~mask.any(axis=1) & (chosen == 0))).all()
        self.time += 1
        rewards = np.ones((4, 2))
        if self.time == self.bad:
            rewards[2, 1] = np.nan
        over = np.full((4, 2), self.time % 4 == 0)
        final = self.observe() if over.any() else None
        return VectorStep(self.observe(), rewards, np.zeros_like(over), over, final)


def begin(algo: str, env: VectorEnv, folder: Any, **settings: Any) -> Learning:
    warm = {} if algo not in OFF_POLICY + WITHOUT_MASKS else {"warmup_steps": 8, "batch_size": 16}
    line = {"topology": "line"} if algo == "fdmarl" else {}
    learning = Learning(algo, env, **warm, **line, **settings)
    learning.algorithm.open_files(folder, resume=False)
    return learning


@pytest.mark.parametrize("algo", [name for name in CENTRAL if name not in WITHOUT_MASKS])
def test_who_waits_does_nothing_and_is_not_learned_from(algo: str, tmp_path: Any) -> None:
    learning = begin(algo, Turns(), tmp_path)
    for _ in range(2):
        report = learning.iterate()
    for t, step in enumerate(learning.steps[:-1]):
        turn = (10 + t) % 2
        assert step.alive.tolist() == [[turn == 0, turn == 1]] * 4
        done = learning.steps[t + 1].agents[0].joint_action
        assert not done[:, 1 - turn].any()
        assert done[:, turn].all()
    if algo in OFF_POLICY:
        assert np.isfinite(report.trainer["critic_loss"])
        return
    entropies = [agent["entropy"] for agent in report.agents]
    # Two actions are allowed, and the policies are hardly trained; over the samples of who waits it would be half that.
    assert entropies == pytest.approx([np.log(2) * (0.5 if algo == "ctrpo" else 1.0)] * 2, abs=0.02)


def test_evaluated_agents_do_nothing_while_they_wait() -> None:
    env = Turns()
    generator = torch.Generator().manual_seed(0)
    config = NetworkSettings(hidden_sizes=(4,))
    alone = TaskSpec("turns", ("agent",), (1,), (Discrete(3),))
    actors = Actors([JointPolicy(0, alone, config, generator) for _ in range(2)], 4)
    observations = env.reset()
    for t in range(6):
        inputs = env.actor_inputs(observations, np.zeros((4, 2), dtype=bool))
        action = actors.act(inputs, generator, deterministic=t % 2 == 0)
        assert not action[:, 1 - t % 2].any()
        observations = env.step(action).observations


@pytest.mark.parametrize("layers", [0, 1])
def test_a_row_of_who_waits_has_no_part_in_a_trust_region_step(layers: int) -> None:
    networks = NetworkSettings(hidden_sizes=(4,), recurrent_layers=layers, chunk_length=5)
    config = Config(agents=2, num_envs=4, rollout_length=10, **vars(networks))
    shared = SharedEnvironment(Turns(), 0.9, reward_scaling=False)
    agents = [Agent(q, 0.0, shared.spec, config) for q in range(2)]
    steps = shared.reset()
    for _ in range(10):
        actions = [agent.act(step) for agent, step in zip(agents, steps, strict=True)]
        steps = shared.step(np.concatenate(actions, axis=1))
    agents[0].rollout.add_outcome(steps[0])
    rollout = agents[0].rollout
    waits = torch.arange(40) // 4 % 2 == 1
    assert not rollout.joint_actions[waits, 0].any()
    model = LinearizedPolicy(
        agents[0].policy, rollout.observations, rollout.joint_actions, rollout.action_masks, rollout.sequences
    )
    direction = torch.randn(len(model.parameters), generator=torch.Generator().manual_seed(1))
    own = model.jvp(direction)[0]
    assert not own[waits].any()
    assert own[~waits].abs().min() > 0
    weights = torch.zeros(2, 40)
    weights[0, waits] = 1.0
    assert not model.vjp(weights).any()


def test_masks_of_some_agents_leave_the_others_free() -> None:
    generator = torch.Generator().manual_seed(0)
    alone = TaskSpec("turns", ("agent",), (1,), (Discrete(3),))
    policies = [JointPolicy(0, alone, NetworkSettings(hidden_sizes=(4,)), generator) for _ in range(2)]
    env = Turns()
    inputs = env.actor_inputs(env.reset(), np.zeros((4, 2), dtype=bool))
    free = [inputs[0], type(inputs[1])(inputs[1].observation, None, inputs[1].ended)]
    actions = np.concatenate([Actors(policies, 4).act(free, generator, False) for _ in range(20)])
    assert set(actions[:, 0]) == {1.0, 2.0}
    assert set(actions[:, 1]) == {0.0, 1.0, 2.0}
    masks = [torch.tensor([[True, False]] * 4), None]
    parts = [Samples(torch.zeros(4, 1), torch.zeros(4, 1), mask, torch.ones(4) > 0, None) for mask in masks]
    merged = merge(parts, 2).action_masks
    assert merged is not None
    assert merged.tolist() == [[True, False], [True, False], [True, True], [True, True]] * 2


@pytest.mark.parametrize("algo", WITHOUT_MASKS)
def test_masks_that_come_late_are_refused_by_who_cannot_handle_them(algo: str, tmp_path: Any) -> None:
    env = Turns(masked=False)
    learning = begin(algo, env, tmp_path)
    learning.sample()
    env.masked = True
    learning.steps.append(learning.central.reset())
    with pytest.raises(ConfigError, match=f"{algo} cannot handle turns, which does not allow every action"):
        learning.sample()
    config = resolve(("test", {"algo": algo, "agents": 2, "task": "navigation"}))
    with pytest.raises(ConfigError, match=f"{algo} cannot handle turns"):
        build_algorithm(Turns(), config)


@pytest.mark.parametrize("algo", CENTRAL)
def test_nothing_is_learned_from_a_number_that_is_not_finite(algo: str, tmp_path: Any) -> None:
    env = GuardedEnv(Turns(masked=False, bad=15), "their/turns")
    learning = begin(algo, env, tmp_path)
    learning.iterate()
    before = learning.algorithm.state_dict()
    with pytest.raises(
        TaskError, match=r"'their/turns', environment 2, step 3 of its episode: the reward of agent 'se"
    ):
        learning.iterate()
    after = learning.algorithm.state_dict()
    for old, new in zip((before.trainer, *before.agents), (after.trainer, *after.agents), strict=True):
        for name in old:
            assert new[name].isfinite().all()
            if "generator" not in name and "replay" not in name and "progress" not in name:
                assert torch.equal(old[name], new[name]), name
