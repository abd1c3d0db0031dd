"""Agents that leave early, join late or come back: flags, observations, masks, returns, advantages by brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_task import ScriptedTask, Stay, allowed, paid, seen

from matrpo.envs.central import CentralEnvironment
from matrpo.envs.shared import AgentStep, SharedEnvironment
from matrpo.envs.wrapped.pettingzoo import PettingZooEnv
from matrpo.networks.gae import generalized_advantages
from matrpo.sampling.rollout import Rollout
from matrpo.settings.sections import NetworkSettings, SamplingSettings

GAMMA, LAMBDA = 0.9, 0.8
Script = list[list[Stay]]
SOME = settings(max_examples=25)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """For each of two or three agents some stays that do not overlap; somebody is there at first."""
    stays: Script = []
    for _ in range(draw(st.integers(2, 3))):
        times = sorted(draw(st.sets(st.integers(0, 6), min_size=2, max_size=4)))
        pairs = zip(times[::2], times[1::2], strict=False)
        stays.append([Stay(first, last, draw(st.booleans())) for first, last in pairs])
    if not any(own[0].first == 0 for own in stays):
        stays[0] = [Stay(0, stays[0][-1].last, True)]
    return stays


def make(stays: Script, num_envs: int = 1) -> PettingZooEnv:
    return PettingZooEnv("scripted", lambda: ScriptedTask(stays), num_envs, seed=0)


def is_cut(task: ScriptedTask, q: int, t: int) -> bool:
    """Whether an agent leaves with step t by truncation, and does not come back in it."""
    return task.end(q, t) is True and not task.is_there(q, t)


@SOME
@given(scripts())
def test_flags_observations_and_masks_follow_the_script(stays: Script) -> None:
    env, task = make(stays), ScriptedTask(stays)
    agents, observations = range(len(stays)), env.reset()
    for _ in range(2):
        for t in range(1, task.length + 1):
            assert [array[0, 0] for array in observations] == [
                seen(q, t - 1) if task.is_there(q, t - 1) else 0.0 for q in agents
            ]
            assert env.present()[0].tolist() == [task.is_there(q, t - 1) for q in agents]
            for q, mask in enumerate(env.action_masks()):
                if task.is_there(q, t - 1):
                    assert mask is not None
                    assert np.flatnonzero(mask[0]).tolist() == [allowed(q, t - 1)]
            step = env.step(np.zeros((1, len(stays)), dtype=np.float32))
            last = t == task.length
            assert step.ended.tolist() == [last]
            assert step.rewards[0].tolist() == [paid(q, t) if task.acts(q, t) else 0.0 for q in agents]
            ends = [task.end(q, t) for q in agents]
            assert step.truncated[0].tolist() == [task.acts(q, t) and ends[q] is True for q in agents]
            assert step.terminated[0].tolist() == [not task.acts(q, t) or ends[q] is False for q in agents]
            cut = [is_cut(task, q, t) for q in agents]
            assert (step.final_observations is not None) == (last or any(cut))
            for q in agents:
                if step.final_observations is not None and ends[q] is not None and (last or cut[q]):
                    assert step.final_observations[q][0, 0] == seen(q, t)
            observations = step.observations


class IdentityCritic:
    """V(o) = o, without a memory."""

    def values(self, observations: torch.Tensor, starts: torch.Tensor, state: torch.Tensor) -> Any:  # noqa: ARG002
        return observations[..., 0], state.expand(len(observations) + 1, *state.shape)


def rollouts(stays: Script, reward: str, length: int) -> tuple[SharedEnvironment, list[Rollout], list[list[AgentStep]]]:
    """A rollout of each agent from a reset on, and the steps."""
    shared = SharedEnvironment(make(stays), GAMMA, False, reward)
    sampling = SamplingSettings(rollout_length=length, num_envs=1)
    found = [Rollout(q, shared.spec, sampling, NetworkSettings()) for q in range(len(stays))]
    steps = [shared.reset()]
    for _ in range(length):
        for rollout, step in zip(found, steps[-1], strict=True):
            rollout.add_observation(step, torch.zeros(1, 0))
        steps.append(shared.step(shared.spec.noop(1)))
        for rollout, step in zip(found, steps[-1], strict=True):
            rollout.add_outcome(step)
    return shared, found, steps


def own_advantages(q: int, stay: Stay) -> dict[int, float]:
    """GAE of a stay by eqs. (18) and (19), of the actions in the steps first + 1 to `last`."""
    running, advantages = 0.0, {}
    for t in range(stay.last, stay.first, -1):
        following = 0.0 if t == stay.last and not stay.truncated else seen(q, t)
        running = paid(q, t) + GAMMA * following - seen(q, t - 1) + GAMMA * LAMBDA * running
        advantages[t] = running
    return advantages


@SOME
@given(scripts())
def test_advantages_and_returns_are_those_of_each_stay(stays: Script) -> None:
    task = ScriptedTask(stays)
    length = 2 * task.length
    shared, found, steps = rollouts(stays, "own", length)
    for q, rollout in enumerate(found):
        values = rollout.values(IdentityCritic(), torch.zeros(1, 0))  # type: ignore[arg-type]
        advantages = rollout.advantages(values, GAMMA, LAMBDA)[0].tolist()
        for stay in (stay for stay in stays[q] if stay.last <= task.length):
            for t, expected in own_advantages(q, stay).items():
                for episode in range(2):
                    assert advantages[episode * task.length + t - 1] == pytest.approx(expected, abs=1e-4)
            for episode in range(2):
                assert steps[episode * task.length + stay.first][q].ended[0], "the memory begins anew"
    earned = [sum(paid(q, t) for t in range(1, task.length + 1) if task.acts(q, t)) for q in range(len(stays))]
    metrics = shared.take_metrics()
    assert metrics["episodes"] == 2
    assert list(metrics["agent_return_mean"].values()) == pytest.approx(earned)
    assert metrics["team_return_mean"] == pytest.approx(sum(earned))


@pytest.mark.parametrize("reward", ["shared", "one-agent"])
@SOME
@given(stays=scripts())
def test_a_team_s_reward_ends_with_the_team_s_episode(reward: str, stays: Script) -> None:
    task = ScriptedTask(stays)
    _, found, steps = rollouts(stays, reward, task.length)
    own = rollouts(stays, "own", task.length)[2]
    agents, steps_of_it = range(len(stays)), range(1, task.length + 1)
    team = [sum(paid(q, t) for q in agents if task.acts(q, t)) for t in steps_of_it]
    to_go = np.cumsum(team[::-1])[::-1]
    zeros = torch.zeros(task.length, 1)
    for q, rollout in enumerate(found):
        rewards, *flags = map(torch.from_numpy, (rollout._rewards, rollout._terminated, rollout._truncated))
        returns = generalized_advantages(rewards, zeros, zeros, *flags, 1.0, 1.0).flatten()
        expected = to_go if reward == "shared" or q == 0 else np.zeros(task.length)
        assert returns.tolist() == pytest.approx(expected.tolist())
        ends = [bool(step[q].terminated[0] or step[q].truncated[0]) for step in steps[1:]]
        assert ends == [False] * (task.length - 1) + [True]
        assert [step[q].ended[0] for step in steps] == [step[q].ended[0] for step in own], "its memory is its own"


@SOME
@given(scripts())
def test_alive_is_who_is_there(stays: Script) -> None:
    task = ScriptedTask(stays)
    environment = CentralEnvironment(SharedEnvironment(make(stays), GAMMA, False), "ep")
    step = environment.reset()
    for t in range(2 * task.length):
        now = t % task.length
        assert step.alive[0].tolist() == [task.is_there(q, now) for q in range(len(stays))]
        before, step = step.alive, environment.step(np.zeros((1, len(stays)), dtype=np.float32))
        ends = [task.end(q, now + 1) for q in range(len(stays))]
        assert step.survived[0].tolist() == [bool(before[0, q]) and end is not False for q, end in enumerate(ends)]


def test_copies_do_not_mix() -> None:
    stays = [[Stay(0, 2, True), Stay(4, 5, False)], [Stay(1, 5, True)]]
    alone, batch = make(stays), make(stays, 3)
    for one, many in zip(alone.reset(), batch.reset(), strict=True):
        np.testing.assert_array_equal(np.repeat(one, 3, axis=0), many)
    for _ in range(12):
        step, steps = alone.step(alone.spec.noop(1)), batch.step(batch.spec.noop(3))
        np.testing.assert_array_equal(np.repeat(step.terminated, 3, axis=0), steps.terminated)
        np.testing.assert_array_equal(np.repeat(step.rewards, 3, axis=0), steps.rewards)


def test_agents_that_stay_listed_go_by_their_flags() -> None:
    class Listed(ScriptedTask):
        """`agents` is never emptied before the next reset."""

        def step(self, actions: dict[int, int]) -> tuple[dict[int, Any], ...]:  # noqa: ARG002
            self.time += 1
            over = self.time == 3
            observations, infos = self._told()
            return observations, {0: 1.0, 1: 1.0}, {0: self.time > 1, 1: False}, dict.fromkeys(range(2), over), infos

    env = PettingZooEnv("listed", lambda: Listed([[Stay(0, 9, True)]] * 2), 1, seed=0)
    env.reset()
    steps = [env.step(env.spec.noop(1)) for _ in range(4)]
    assert [step.ended[0] for step in steps] == [False, False, True, False]
    assert [step.terminated[0].tolist() for step in steps] == [
        [False, False],
        [True, False],
        [True, False],
        [False] * 2,
    ]
    assert [step.cut[0] for step in steps] == [False, False, True, False]


def test_an_agent_that_nobody_knows_is_named() -> None:
    class Stranger(ScriptedTask):
        def step(self, actions: dict[int, int]) -> tuple[dict[int, Any], ...]:
            outcome = super().step(actions)
            self.agents = [*self.agents, 7]
            return outcome

    env = PettingZooEnv("stranger", lambda: Stranger([[Stay(0, 3, True)]]), 1, seed=0)
    env.reset()
    with pytest.raises(Exception, match=r"'?7'?; expected one of possible_agents, 0"):
        env.step(env.spec.noop(1))


@SOME
@given(scripts(), st.integers(1, 6))
def test_a_limit_cuts_episodes_as_a_truncation_of_all_who_are_there_does(stays: Script, limit: int) -> None:
    cut = [
        [
            Stay(stay.first, min(stay.last, limit), stay.truncated or stay.last > limit)
            for stay in own
            if stay.first < limit
        ]
        for own in stays
    ]
    limited, expected = make(stays, 2), make(cut, 2)
    limited.limit_episodes(limit)
    assert limited.spec.episode_length == limit
    np.testing.assert_array_equal(limited.reset(), expected.reset())
    for _ in range(2 * limit + 1):
        masks = [np.zeros((2, 1)) if mask is None else mask.argmax(axis=1)[:, None] for mask in limited.action_masks()]
        actions = np.concatenate(masks, axis=1).astype(np.float32)
        one, other = limited.step(actions), expected.step(actions)
        for name in ("observations", "rewards", "terminated", "truncated", "alive", "ended"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_array_equal(limited.present(), expected.present())
