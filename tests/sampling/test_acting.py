"""Agents that act together do what each would do by itself."""

import numpy as np
import pytest
import torch

from matrpo.envs.vector_env import ActorInput
from matrpo.networks.joint_policy import JointPolicy
from matrpo.sampling.acting import Actor, Actors, StackedPolicies
from matrpo.settings.sections import NetworkSettings
from matrpo.spaces import ActionSpace, Box, Discrete, MultiDiscrete, TaskSpec

B = 6
MOVES, FORCE, BOTH = Discrete(5), Box(2, -1.0, 1.0), MultiDiscrete((5, 3))


def policy(q: int, spec: TaskSpec, **changes) -> JointPolicy:
    generator = torch.Generator().manual_seed(q)
    made = JointPolicy(q, spec, NetworkSettings(hidden_sizes=(16, 8), **changes), generator)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    return made


def team(sizes: tuple[int, ...], spaces: tuple[ActionSpace, ...], **changes) -> list[JointPolicy]:
    spec = TaskSpec("a task", tuple(f"agent_{q}" for q in range(len(sizes))), sizes, spaces)
    return [policy(q, spec, **changes) for q in range(len(sizes))]


SIZES = {
    "alike": (4, 4, 4),
    "of two kinds": (4, 7, 4, 7),
    "with other spaces": (4, 4, 4, 4),
    "with memories": (4, 4),
    "with factors": (4, 4),
}
TEAMS = {
    "alike": team(SIZES["alike"], (MOVES,) * 3, feature_normalization=True),
    "of two kinds": team(SIZES["of two kinds"], (MOVES,) * 4),
    "with other spaces": team(SIZES["with other spaces"], (MOVES, FORCE, MOVES, FORCE)),
    "with factors": team(SIZES["with factors"], (BOTH,) * 2),
    "with memories": team(SIZES["with memories"], (MOVES,) * 2, recurrent_layers=1),
}


def seen(name: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(B, size)).astype(np.float32) for size in SIZES[name]]


@pytest.mark.parametrize("name", TEAMS)
def test_the_most_probable_actions_are_those_of_each_alone(name):
    policies, observations = TEAMS[name], seen(name)
    generator, goes_on = torch.Generator(), np.zeros(B, dtype=bool)
    inputs = [ActorInput(observation, None, goes_on) for observation in observations]
    together = Actors(policies, B).act(inputs, generator, deterministic=True)
    alone = [Actor(p, B).act(own, generator, deterministic=True) for p, own in zip(policies, inputs, strict=True)]
    assert together == pytest.approx(np.concatenate(alone, axis=1), abs=1e-5)


@torch.no_grad()
def test_outputs_are_those_of_each_own_head():
    policies = TEAMS["with other spaces"][1::2]
    observations, goes_on = seen("with other spaces")[1::2], np.zeros(B, dtype=bool)
    outputs, _ = StackedPolicies([Actor(policy, len(observations[0])) for policy in policies]).outputs(
        [ActorInput(own, None, goes_on) for own in observations]
    )
    for p, own, observation in zip(policies, outputs, observations, strict=True):
        torch.testing.assert_close(own.unsqueeze(1), p.own_head_of(p.network(torch.from_numpy(observation))).mean)


def test_after_an_update_policies_of_one_shape_act_by_their_new_parameters():
    policies, goes_on = team((4, 4), (FORCE,) * 2), np.zeros(B, dtype=bool)
    actors, inputs = Actors(policies, B), [ActorInput(own, None, goes_on) for own in seen("with factors")]
    before = actors.act(inputs, torch.Generator(), deterministic=True)
    with torch.no_grad():
        for parameter in policies[1].parameters():
            parameter += 1.0
    actors.refresh()
    after = actors.act(inputs, torch.Generator(), deterministic=True)
    moved = Actor(policies[1], B).act(inputs[1], torch.Generator(), deterministic=True)
    width = moved.shape[1]
    assert np.array_equal(after[:, :width], before[:, :width])
    assert after[:, width:] == pytest.approx(moved, rel=1e-5)


def test_after_an_update_a_policy_in_common_acts_by_its_new_parameters():
    policies, goes_on = team((4,), (FORCE,)) * 3, np.zeros(B, dtype=bool)
    actors, rng = Actors(policies, B), np.random.default_rng(0)
    inputs = [ActorInput(rng.normal(size=(B, 4)).astype(np.float32), None, goes_on) for _ in policies]
    with torch.no_grad():
        for parameter in policies[0].parameters():
            parameter += 1.0
    actors.refresh()
    after = actors.act(inputs, torch.Generator(), deterministic=True)
    alone = [Actor(policies[0], B).act(own, torch.Generator(), deterministic=True) for own in inputs]
    assert after == pytest.approx(np.concatenate(alone, axis=1), rel=1e-5)


@pytest.mark.parametrize("recurrent_layers", [0, 1])
def test_a_policy_in_common_acts_and_remembers_as_each_agent_s_own_would(recurrent_layers):
    (policy,) = team((4,), (FORCE,), recurrent_layers=recurrent_layers)
    together, alone = Actors([policy] * 3, B), [Actor(policy, B) for _ in range(3)]
    rng = np.random.default_rng(0)
    for _ in range(4):
        inputs = [ActorInput(rng.normal(size=(B, 4)).astype(np.float32), None, rng.random(B) < 0.3) for _ in range(3)]
        actions = together.act(inputs, torch.Generator(), deterministic=True)
        apart = [a.act(own, torch.Generator(), deterministic=True) for a, own in zip(alone, inputs, strict=True)]
        assert actions == pytest.approx(np.concatenate(apart, axis=1), abs=1e-5)
        for member, other in zip(together.members, alone, strict=True):
            torch.testing.assert_close(member.state, other.state)


def test_actions_are_drawn_from_the_same_distributions_and_masks_hold():
    policies = TEAMS["alike"]
    rows = np.repeat([observation[:1] for observation in seen("alike")], 20_000, axis=1)
    masks = [np.ones((20_000, 5), dtype=bool) for _ in policies]
    masks[1][:, 2:] = False
    inputs = [ActorInput(*parts, np.zeros(20_000, dtype=bool)) for parts in zip(rows, masks, strict=True)]
    drawn = Actors(policies, 20_000).act(inputs, torch.Generator().manual_seed(0), deterministic=False)
    assert drawn[:, 1].max() < 2
    for q, p in enumerate(policies):
        with torch.no_grad():
            expected = p.own_head_of(p.network(torch.from_numpy(rows[q][:1])), torch.from_numpy(masks[q][:1])).probs[
                0, 0
            ]
        frequencies = np.bincount(drawn[:, q].astype(int), minlength=5) / 20_000
        assert frequencies == pytest.approx(expected.numpy(), abs=0.015)
