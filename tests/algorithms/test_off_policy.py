"""The off-policy algorithms: targets and updates against the papers' formulas, resumption, evaluation, refusals."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transitions import SIZES, build, perceptron, random_batch

from matrpo.algorithms.shared.central_critic import encode, gumbel_softmax
from matrpo.algorithms.shared.deterministic import Policy, noisy
from matrpo.algorithms.shared.off_policy import random_actions
from matrpo.errors import ConfigError
from matrpo.evaluation import evaluate
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import resolve
from matrpo.settings.sections import NetworkSettings
from matrpo.spaces import Box, Discrete, MultiDiscrete
from matrpo.training import CentralTraining

CONTINUOUS, DISCRETE = "mpe2/simple_spread_v3-continuous", "mpe2/simple_spread_v3"
SETTINGS = {
    **SIZES,
    "agents": 3,
    "steps": 360,
    "batch_size": 20,
    "buffer_size": 210,
    "warmup_steps": 90,
    "updates_per_step": 0.2,
    "n_step": 3,
    "checkpoint_every": 2,
    "tensorboard": False,
}
ALGORITHMS = [
    *[(algo, task) for algo in ("haddpg", "hatd3", "hasac", "maddpg", "matd3") for task in (CONTINUOUS, DISCRETE)],
    ("had3qn", DISCRETE),
    ("qmix", DISCRETE),
]


def create(path, algo, task, **changes):
    return RunDirectory.create(path, resolve(("test", {"algo": algo, "task": task, **SETTINGS, **changes})), {})


def train(run, start=0, stop_after=None):
    training = CentralTraining(run, start)
    training.run(lambda: training.iteration == stop_after, lambda _: None)


@pytest.mark.parametrize("algo", ["hatd3", "matd3"])
def test_td3_targets_equal_a_computation_by_hand(algo):
    algorithm = build(algo, CONTINUOUS, policy_noise=0.4, noise_clip=0.3)
    for network in algorithm.target_actors:  # policies begin near the middle, where clipping at the bounds is idle
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, generator=algorithm.generator)
    batch = random_batch(algorithm)
    algorithm.generator.manual_seed(5)
    targets = algorithm.targets(batch)
    noise_source = torch.Generator().manual_seed(5)
    actions = []
    for network, observations in zip(algorithm.target_actors, batch.later.observations, strict=True):
        mu = np.tanh(perceptron(network, observations.numpy()))
        noise = np.clip(0.4 * torch.randn(40, 5, generator=noise_source).numpy(), -0.3, 0.3)
        actions.append(np.clip(mu + noise, -1.0, 1.0))
    joint = np.concatenate([batch.later.state.numpy(), *actions], axis=1)
    assert (np.concatenate(actions) == 1.0).any()
    values = [perceptron(network, joint)[:, 0] for network in algorithm.target_values]
    assert len(values) == 2
    expected = batch.rewards.numpy() + batch.discounts.numpy() * np.minimum(*values)
    np.testing.assert_allclose(targets.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_ddpg_targets_have_one_critic_and_no_noise():
    algorithm = build("haddpg", CONTINUOUS)
    batch = random_batch(algorithm)
    actions = [
        np.tanh(perceptron(network, seen.numpy()))
        for network, seen in zip(algorithm.target_actors, batch.later.observations, strict=True)
    ]
    joint = np.concatenate([batch.later.state.numpy(), *actions], axis=1)
    (critic,) = algorithm.target_values
    expected = batch.rewards.numpy() + batch.discounts.numpy() * perceptron(critic, joint)[:, 0]
    np.testing.assert_allclose(algorithm.targets(batch).numpy(), expected, rtol=1e-4, atol=1e-5)


def record_ascents(algorithm, batch):
    """Each `ascend` of an `improve`: the agent, the actions it was given, and what all policies do before and after."""
    ascents, ascend = [], algorithm.ascend

    def now():
        with torch.no_grad():
            return [actor(seen) for actor, seen in zip(algorithm.actors, batch.now.observations, strict=True)]

    def recorded(agent, batch, actions):
        given, before = [action.detach().clone() for action in actions], now()
        ascend(agent, batch, actions)
        ascents.append((agent, given, before, now()))

    algorithm.ascend = recorded
    algorithm.improve(batch)
    return ascents


@pytest.mark.parametrize("algo", ["haddpg", "hatd3"])
def test_agents_ascend_in_turn_knowing_the_new_actions_of_those_before_them(algo):
    algorithm = build(algo, CONTINUOUS, actor_lr=0.05)
    batch = random_batch(algorithm)
    ascents = record_ascents(algorithm, batch)
    order = [agent for agent, *_ in ascents]
    assert sorted(order) == [0, 1, 2]
    old = ascents[0][2]
    for position, (agent, given, before, after) in enumerate(ascents):
        for other in range(3):
            assert torch.equal(given[other], before[other])
            assert torch.equal(before[other], old[other]) == (other not in order[:position])
            assert torch.equal(after[other], before[other]) == (other != agent)


@pytest.mark.parametrize("algo", ["maddpg", "matd3"])
def test_agents_ascend_alone_among_the_actions_of_the_buffer(algo):
    algorithm = build(algo, CONTINUOUS, actor_lr=0.05)
    batch = random_batch(algorithm)
    for agent, given, before, _ in record_ascents(algorithm, batch):
        for other, part in enumerate(algorithm.spec.action_slices):
            expected = before[agent] if other == agent else batch.actions[:, part]
            assert torch.equal(given[other], expected)


def test_the_order_of_agents_is_random_unless_it_is_fixed():
    algorithm = build("haddpg", CONTINUOUS)
    assert len({tuple(algorithm.update_order()) for _ in range(100)}) == 6
    fixed = build("haddpg", CONTINUOUS, agent_order="fixed")
    assert {tuple(fixed.update_order()) for _ in range(5)} == {(0, 1, 2)}


def test_policies_ascend_where_their_agent_is_alive():
    algorithm = build("haddpg", CONTINUOUS)
    batch = random_batch(algorithm)
    actor, seen = algorithm.actors[1], batch.now.observations[1]
    batch.now.alive[:, 1] = False
    before = actor(seen).detach()
    algorithm.improve(batch)
    assert torch.equal(actor(seen), before)


def test_policies_are_updated_and_targets_move_at_every_second_update_of_td3():
    algorithm = build("hatd3", CONTINUOUS, policy_delay=2)
    batch = random_batch(algorithm)
    changed = []
    watched = [algorithm.actors[0], algorithm.target_values[0], algorithm.target_actors[0], algorithm.value_networks[1]]
    states = [[p.detach().clone() for network in watched for p in list(network.parameters())[:1]]]
    for update in range(1, 5):
        algorithm._updates = update
        algorithm.learn(batch)
        states.append([p.detach().clone() for network in watched for p in list(network.parameters())[:1]])
    for before, after in pairwise(states):
        changed.append([not torch.equal(a, b) for a, b in zip(before, after, strict=True)])
    assert changed == [[False, False, False, True], [True] * 4] * 2


def test_targets_move_by_polyak_averaging():
    algorithm = build("haddpg", CONTINUOUS, polyak=0.25)
    source, target = algorithm.value_networks[0], algorithm.target_values[0]
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(4.0)
    before = [parameter.clone() for parameter in target.parameters()]
    algorithm.move_targets()
    for old, new in zip(before, target.parameters(), strict=True):
        torch.testing.assert_close(new, old + 1.0)


def test_gumbel_softmax_gives_one_hot_draws_with_the_softmaxs_gradient():
    logits = torch.tensor([[1.0, -0.5, 0.3, 0.0]]).repeat(20_000, 1).requires_grad_()
    draws = gumbel_softmax(logits, torch.Generator().manual_seed(0))
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert (draws.sum(1) == 1.0).all()
    np.testing.assert_allclose(draws.detach().mean(0), logits[0].detach().softmax(-1), atol=0.015)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    (gradient,) = torch.autograd.grad((draws * weights).sum(), logits)
    exponential = torch.empty_like(logits).exponential_(generator=torch.Generator().manual_seed(0))
    soft = (logits.detach() - exponential.log()).softmax(-1)
    expected = soft * (weights - (soft * weights).sum(1, keepdim=True))
    torch.testing.assert_close(gradient, expected)


def test_noise_has_its_deviation_in_half_ranges_and_stays_within_bounds():
    middle = torch.zeros(20_000, 1)
    generator = torch.Generator().manual_seed(0)
    actions = noisy(middle, 0.1, np.inf, generator)
    assert float(actions.std()) == pytest.approx(0.1, rel=0.03)
    clipped = noisy(middle, 10.0, 0.5, generator)
    assert (float(clipped.min()), float(clipped.max())) == (-0.5, 0.5)
    bounded = noisy(middle, 10.0, np.inf, generator)
    assert (float(bounded.min()), float(bounded.max())) == (-1.0, 1.0)


def test_random_actions_are_allowed_ones():
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[False, True, False, True]]).repeat(400, 1)
    assert set(random_actions(Discrete(4), mask, 400, generator).unique().tolist()) == {1.0, 3.0}
    assert set(random_actions(Discrete(4), None, 400, generator).unique().tolist()) == {0.0, 1.0, 2.0, 3.0}
    uniform = random_actions(Box(2, (-1.0, 100.0), (3.0, 200.0)), None, 4000, generator)
    assert uniform.amin(0).tolist() == pytest.approx([-1.0, -1.0], abs=0.01)
    assert uniform.amax(0).tolist() == pytest.approx([1.0, 1.0], abs=0.01)
    factors = random_actions(
        MultiDiscrete((2, 3)), torch.tensor([[True, True, True, False, True]] * 400), 400, generator
    )
    assert set(map(tuple, factors.tolist())) == {(0.0, 0.0), (0.0, 2.0), (1.0, 0.0), (1.0, 2.0)}


def test_choices_of_several_factors_are_one_hot_each_and_alike_for_policies_and_critics():
    space, seen = MultiDiscrete((2, 4, 3)), torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    policy = Policy(5, space, NetworkSettings(hidden_sizes=(8,)), torch.Generator().manual_seed(1))
    for generator in (None, torch.Generator().manual_seed(2)):
        actions = policy(seen, generator)
        parts = torch.split(actions, [2, 4, 3], dim=1)
        choices = torch.stack([part.argmax(1) for part in parts], dim=1)
        torch.testing.assert_close(encode(space, choices.float()), actions.detach())
    scores = torch.split(policy._network(seen), [2, 4, 3], dim=1)
    drawn = torch.Generator().manual_seed(2)
    torch.testing.assert_close(actions, torch.cat([gumbel_softmax(part, drawn) for part in scores], dim=1))


def test_one_factor_is_a_discrete_action():
    seen, networks = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)), NetworkSettings(hidden_sizes=(8,))
    spaces = (Discrete(4), MultiDiscrete((4,)))
    one, other = (Policy(5, space, networks, torch.Generator().manual_seed(1)) for space in spaces)
    assert torch.equal(one(seen), other(seen))
    draws = [p(seen, torch.Generator().manual_seed(2)) for p in (one, other)]
    assert torch.equal(*draws)
    draws = [random_actions(space, None, 50, torch.Generator().manual_seed(2)) for space in spaces]
    assert torch.equal(*draws)
    assert torch.equal(*(encode(space, draws[0]) for space in spaces))


def arrays_at(run, iteration):
    return {name: process.load_checkpoint(iteration)[0] for name, process in run.processes().items()}


@pytest.mark.parametrize(("algo", "task"), ALGORITHMS)
def test_a_resumed_run_equals_the_uninterrupted_one_and_can_be_evaluated(tmp_path, algo, task):
    """By the end the oldest is forgotten; what the stopped run wrote after its checkpoint is thrown away."""
    whole, stopped = create(tmp_path / "whole", algo, task), create(tmp_path / "stopped", algo, task)
    train(whole)
    train(stopped, stop_after=3)
    stopped.rewind(2)
    train(stopped, start=2)
    expected, found = arrays_at(whole, 4), arrays_at(stopped, 4)
    for process, arrays in expected.items():
        assert arrays.keys() == found[process].keys()
        for name in arrays:
            np.testing.assert_array_equal(arrays[name], found[process][name], err_msg=f"{process} {name}")
    learned = [line["updates"] for line in whole.trainer.read_metrics()]
    assert learned == [6, 6, 6, 6]
    assert all(np.isfinite(line["critic_loss"]) for line in whole.trainer.read_metrics())
    (stopped.trainer.path / "replay.bin").unlink()
    assert evaluate(stopped, 2) == evaluate(whole, 2)
    with pytest.raises(ConfigError, match="cannot go on without its replay buffer"):
        CentralTraining(stopped, 4)


def test_nothing_is_learned_during_the_warm_up(tmp_path):
    run = create(tmp_path / "run", "haddpg", CONTINUOUS, warmup_steps=181)
    train(run, stop_after=3)
    assert [line["updates"] for line in run.trainer.read_metrics()] == [0, 0, 6]


def test_rewards_count_in_the_units_of_the_running_scale(tmp_path):
    run = create(tmp_path / "run", "haddpg", CONTINUOUS, reward_scaling=True, n_step=1)
    training = CentralTraining(run)
    seen = []
    training.algorithm.learn = lambda batch: seen.append(batch.rewards.clone()) or {}
    training.iterate()
    scale = training.environment.reward_scale
    assert scale != 1.0
    stored = {round(float(reward), 3) for reward in training.algorithm.replay._signals[:, 0]}
    assert {round(float(reward) * scale, 3) for reward in torch.cat(seen)} <= stored


@pytest.mark.parametrize(
    ("algo", "task", "changes", "message"),
    [
        ("qmix", CONTINUOUS, {}, "qmix needs discrete actions"),
        ("had3qn", CONTINUOUS, {}, "had3qn needs discrete actions"),
        ("had3qn", DISCRETE, {"agents": 7}, "one output for each of 78125 joint actions"),
        ("had3qn", DISCRETE, {"share_parameters": True}, "a network of its own"),
        ("had3qn", DISCRETE, {"hidden_sizes": []}, "set hidden_sizes"),
        ("haddpg", "game/differentiable", {}, "component 0 of the actions of agent 'player_0', Box.*, has no bounds"),
        ("hasac", "game/differentiable", {}, "component 0 of the actions of agent 'player_0', Box.*, has no bounds"),
        ("hatd3", CONTINUOUS, {"share_parameters": True}, "a policy of its own"),
        ("qmix", "mpe2/simple_speaker_listener_v4", {"share_parameters": True}, "differ in what they see or do"),
        *[(algo, DISCRETE, {"recurrent_layers": 1}, "leave recurrent_layers at 0") for algo in ("maddpg", "qmix")],
        ("matd3", DISCRETE, {"state_type": "fp"}, "leave state_type at ep"),
        ("matd3", DISCRETE, {"buffer_size": 2}, "expected at least num_envs"),
    ],
)
def test_what_an_algorithm_cannot_handle_is_refused_in_one_line(algo, task, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build(algo, task, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rate", "first_ten"),
    [
        (0.01, [0, 0, 0, 1, 0, 0, 0, 1, 0, 0]),
        (0.02, [0, 1] * 5),
        (0.06, [1, 2] * 5),
        (0.1, [2, 3] * 5),
        (0.28, [7] * 10),
        (1.0, [25] * 10),
    ],
)
def test_fractions_of_updates_are_carried_over(rate, first_ten):
    """After k iterations of 25 steps that count, floor(25 k rate) updates are made. The warm-up ends in the second."""
    algorithm = build("haddpg", CONTINUOUS, updates_per_step=rate, warmup_steps=76, num_envs=3, rollout_length=25)
    algorithm.learn = lambda _: {}
    algorithm._replay = SimpleNamespace(sample=lambda *_: SimpleNamespace(rewards=torch.zeros(1)))
    counts = []
    for iteration in range(1, 12):
        algorithm._steps += 75
        counts.append(algorithm.update(iteration).trainer["updates"])
    assert counts == [0, *first_ten]
    assert algorithm.updates == sum(first_ten)


def test_a_run_resumed_between_two_updates_makes_as_many(tmp_path):
    whole, stopped = (create(tmp_path / name, "haddpg", CONTINUOUS, updates_per_step=0.05) for name in "ab")
    train(whole)
    train(stopped, stop_after=3)
    train(stopped, start=3)
    counts = [[line["updates"] for line in run.trainer.read_metrics()] for run in (whole, stopped)]
    assert counts == [[1, 2, 1, 2]] * 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"warmup_steps": 361}, "first warmup_steps, 361, act at random"),
        ({"updates_per_step": 0.001}, "updates_per_step is 0.001"),
        ({"warmup_steps": 360}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize(("algo", "task"), [("qmix", DISCRETE), ("matd3", CONTINUOUS)])
def test_a_run_that_will_learn_nothing_says_so(algo, task, changes, words):
    remark = build(algo, task, **{**SETTINGS, **changes}).remark()
    assert (
        remark is None if words is None else words in remark and remark.startswith(f"{algo} will learn nothing in 360")
    )
