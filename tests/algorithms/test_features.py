"""What on-policy algorithms share: masks of actions and of the dead, memories, learning rates, losses, instruments."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from learning import Duel, Learning
from recall import RecallEnv

from matrpo.algorithms.shared import mirror
from matrpo.algorithms.shared.learner import merge
from matrpo.algorithms.shared.mirror import ClipDrift, clip_range
from matrpo.errors import ConfigError
from matrpo.networks.critic import ValueLoss
from matrpo.networks.mlp import flat_parameters
from matrpo.networks.sequences import side_by_side
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import resolve
from matrpo.trust_region.step_rule import StepRule

ON_POLICY = ("happo", "hatrpo", "haa2c", "mappo", "ippo", "jrppo", "maa2c", "itrpo", "ctrpo", "fdmarl")
SPREAD = "mpe2/simple_spread_v3"


def prepared(algo, task, **settings):
    """A learning with a rollout, and what its `improve` takes."""
    learning = Learning(algo, task, **settings)
    learning.sample()
    algorithm = learning.algorithm
    samples = [algorithm._samples(q) for q in range(algorithm.spec.num_agents)]
    generator = torch.Generator().manual_seed(3)
    advantages = [torch.randn(len(samples[0].actions), generator=generator) for _ in samples]
    return algorithm, samples, advantages


def vectors(algorithm):
    return torch.stack([flat_parameters(list(policy.parameters())) for policy in algorithm.policies])


@pytest.mark.parametrize("algo", [a for a in ON_POLICY if a != "ctrpo"])
@pytest.mark.parametrize("memory", [0, 1])
def test_what_the_dead_do_changes_nothing(algo, memory):
    settings = {"agents": 3, "recurrent_layers": memory, "topology": "ring", "solver": "cg"}
    outcomes = []
    for actions_of_the_dead in (0.0, 2.0):
        algorithm, samples, advantages = prepared(algo, SPREAD, **settings)
        dead = torch.arange(len(advantages[0])) % 4 == 0
        samples = [replace(samples[0], alive=~dead, actions=samples[0].actions.clone()), *samples[1:]]
        samples[0].actions[dead] = actions_of_the_dead
        before = vectors(algorithm)
        algorithm.improve(samples, algorithm._heads(samples), advantages)
        assert not torch.equal(vectors(algorithm)[0], before[0])
        outcomes.append(vectors(algorithm))
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=0.0, atol=0.0)


def test_advantages_are_standardised_over_the_living():
    learning = Learning("mappo", Duel())
    recorded = []
    improve = learning.algorithm.improve
    learning.algorithm.improve = lambda samples, old, weights: (
        recorded.extend(zip(samples, weights, strict=True)) or improve(samples, old, weights)
    )
    learning.iterate()
    assert not recorded[1][0].alive.all()
    for part, weights in recorded:
        assert float(weights[part.alive].mean()) == pytest.approx(0.0, abs=1e-5)
        assert float(weights[part.alive].std(correction=0)) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("algo", ["happo", "hatrpo"])
def test_an_agent_that_is_never_alive_is_left_as_it_is(algo):
    learning = Learning(algo, Duel(), entropy_coef=0.1)
    learning.sample()
    learning.algorithm._alive[:, :, 1] = False
    before = vectors(learning.algorithm)
    report = learning.algorithm.update(1)
    assert torch.equal(vectors(learning.algorithm)[1], before[1])
    assert not torch.equal(vectors(learning.algorithm)[0], before[0])
    assert set(report.agents[1]) >= {"kl", "ratio_max"}
    assert report.agents[1]["kl"] is None
    assert math.isfinite(report.trainer["joint_ratio_max"])


@pytest.mark.parametrize("algo", ON_POLICY)
def test_forbidden_actions_are_neither_done_nor_counted(algo):
    """The task raises on a forbidden action; of three actions two are allowed, so entropy is that of two."""
    learning = Learning(algo, Duel(), topology="line", actor_lr=0.02, kl_step=0.05)
    first = learning.iterate()
    for line in first.agents:
        assert line["entropy"] <= math.log(2) + 1e-5
    for _ in range(3):
        learning.iterate()
    actor = learning.algorithm.actor(4)
    env = learning.central.shared.env
    observations, ended = env.reset(), np.zeros((4, 2), dtype=bool)
    for deterministic in (True, False, True):
        action = actor.act(env.actor_inputs(observations, ended), learning.algorithm.generator, deterministic)
        observations = env.step(action).observations


@pytest.mark.parametrize("algo", ["mappo", "ctrpo"])
def test_a_policy_with_a_memory_is_improved_on_what_it_acted_by(algo):
    """Heads from the stored memories of chunks equal those of stepping through both iterations from the start."""
    learning = Learning(algo, RecallEnv(4, 0), recurrent_layers=1, chunk_length=5, rollout_length=10)
    algorithm = learning.algorithm
    policy, seen, starts = algorithm.policies[0], [], []
    algorithm.improve = lambda *_: [{}, {}]
    for _ in range(2):
        learning.sample()
        samples, chunks = algorithm._samples(0), learning.steps[:-1]
        seen += [samples.observations.view(10, 4, -1).clone()]
        starts += [torch.stack([torch.from_numpy(step.agents[0].ended) for step in chunks])]
        learning.algorithm.update(1)
    with torch.no_grad():
        empty = torch.zeros(4, policy.network.state_size)
        outputs, _ = policy.network.unroll(torch.cat(seen), torch.cat(starts), empty)
        expected = policy.own_head_of(outputs[10:].flatten(0, 1))
        wrong = policy.own_head_of(policy.network.unroll(seen[1], starts[1], empty)[0].flatten(0, 1))
        found = samples.head(policy)
    torch.testing.assert_close(samples.log_prob(found), samples.log_prob(expected))
    assert not torch.equal(samples.log_prob(wrong), samples.log_prob(expected)), "no episode crosses the iterations"


@pytest.mark.parametrize("algo", ["mappo", "ippo"])
def test_nothing_is_remembered_of_an_episode_that_is_over_for_the_agent(algo):
    """After 10 steps of episodes of 4 the second agent is out in the odd environments, and nobody else anywhere."""
    algorithm = Learning(algo, Duel(), recurrent_layers=1, chunk_length=5)
    algorithm.iterate()
    first, second = (actor.state for actor in algorithm.algorithm._actors.members)
    assert first.any(dim=1).all()
    assert second.any(dim=1).tolist() == [True, False, True, False]
    memories = algorithm.algorithm._memories
    assert memories[0].any(dim=1).all()
    assert memories[-1].any(dim=1).tolist() == [True, algo == "mappo", True, algo == "mappo"]


def test_merged_samples_with_a_memory_have_the_heads_of_each_agent():
    algorithm, samples, _ = prepared(
        "mappo", RecallEnv(4, 0), recurrent_layers=1, chunk_length=5, share_parameters=True
    )
    merged = merge(samples, 10)
    policy = algorithm.policies[0]
    separate = side_by_side([part.log_prob(part.head(policy)) for part in samples], 10)
    torch.testing.assert_close(merged.log_prob(merged.head(policy)), separate)


def test_learning_rates_fall_linearly_to_zero():
    learning = Learning("happo", SPREAD, agents=2, lr_decay=True, steps=160, actor_lr=0.01, critic_lr=0.02)
    assert learning.config.iterations == 4
    for left in (1.0, 0.75, 0.5, 0.25):
        learning.iterate()
        rates = [learner.optimizer.param_groups[0]["lr"] for learner in learning.algorithm.learners]
        assert rates == pytest.approx([0.01 * left] * 2)
        assert learning.algorithm.critics[0].optimizer.param_groups[0]["lr"] == pytest.approx(0.02 * left)


@pytest.mark.parametrize("algo", ["hatrpo", "itrpo", "ctrpo"])
def test_trust_regions_shrink_linearly_to_nothing(algo, monkeypatch):
    tried = []
    monkeypatch.setattr(
        mirror, "StepRule", lambda kl_step, penalty: tried.append(kl_step) or StepRule(kl_step, penalty)
    )
    learning = Learning(algo, SPREAD, agents=2, kl_decay=True, steps=160, kl_step=0.08)
    for part in (0.08, 0.06, 0.04, 0.02):
        tried.clear()
        learning.iterate()
        expected = [part] * 2 if algo != "ctrpo" else [2 * part]
        assert tried == pytest.approx(expected)


def norm_of(module):
    gradients = [parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None]
    return float(torch.cat(gradients).norm())


@pytest.mark.parametrize("algo", ["happo", "jrppo"])
def test_gradients_are_shortened_to_the_longest_allowed(algo):
    for longest in (None, 1e-3):
        learning = Learning(algo, SPREAD, agents=2, max_grad_norm=longest)
        learning.iterate()
        for module in (learning.algorithm.policies[0], learning.algorithm.critics[0]):
            found = norm_of(module)
            assert (found > 2e-3) if longest is None else found == pytest.approx(longest, rel=1e-2)


def test_huber_loss_counts_far_errors_linearly():
    values, targets = torch.zeros(2, 1), torch.tensor([[1.0], [30.0]])
    assert float(ValueLoss()(values, None, targets)) == pytest.approx((1.0 + 900.0) / 2)
    assert float(ValueLoss(huber_delta=10.0)(values, None, targets)) == pytest.approx((0.5 + 10 * (30 - 5)) / 2)


def test_clipped_values_count_the_larger_loss():
    before, targets = torch.zeros(3, 1), torch.ones(3, 1)
    values = torch.tensor([[0.1], [0.5], [-0.5]], requires_grad=True)
    ValueLoss(clip=0.2)(values, before, targets).backward()
    assert float(values.grad[0]) < 0
    assert float(values.grad[1]) == 0, "it has moved as far as it may"
    assert float(values.grad[2]) < 0, "a move the wrong way is not protected"


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("huber_delta", [None, 1.0])
def test_the_value_loss_knows_its_gradient(huber_delta, clip):
    draws = torch.Generator().manual_seed(0)
    values, change, targets = (torch.randn(200, 1, generator=draws) for _ in range(3))
    values.requires_grad_()
    loss, before = ValueLoss(huber_delta, clip), values.detach() + 0.3 * change
    loss(values, before, targets).backward()
    with torch.no_grad():
        found = loss.gradient(values, before, targets)
    assert clip is None or 10 < int((found == 0).sum()) < 100
    torch.testing.assert_close(found, values.grad)


@pytest.mark.parametrize(("setting", "value"), [("huber_delta", 0.01), ("value_clip", 0.01)])
def test_the_value_loss_of_the_settings_is_the_one_that_is_minimised(setting, value):
    losses = []
    for given in (None, value):
        changes = {"huber_delta": None, "value_clip": None, setting: given, "critic_lr": 0.05}
        losses.append(Learning("mappo", SPREAD, agents=2, **changes).iterate().trainer["critic_loss"])
    assert losses[0] != pytest.approx(losses[1], rel=0.05)


def test_values_are_learnt_on_any_scale():
    """Without normalisation, 25 steps of Adam at this learning rate would leave values near 0."""
    learning = Learning("mappo", Duel(4, pay=1000.0), reward_scaling=False, gamma=0.0, critic_lr=5e-4, critic_epochs=25)
    learning.iterate()
    algorithm = learning.algorithm
    values = algorithm._views[0].values(algorithm.critic(0), algorithm._memories[0]).current
    assert float(values.mean()) == pytest.approx(2000.0, rel=0.02)


def test_an_update_reports_what_it_did_to_each_policy():
    learning = Learning("happo", SPREAD, agents=3, actor_lr=0.05)
    learning.sample()
    algorithm = learning.algorithm
    samples = [algorithm._samples(q) for q in range(3)]
    old = algorithm._heads(samples)
    report = algorithm.update(1)
    new = algorithm._heads(samples)
    joint = torch.ones(len(samples[0].actions))
    for line, part, before, after in zip(report.agents, samples, old, new, strict=True):
        ratio = (part.log_prob(after) - part.log_prob(before)).exp()
        variation = 0.5 * (before.probs - after.probs).abs().sum(-1)
        joint = joint * ratio
        assert line["ratio_min"] == pytest.approx(float(ratio.min()), rel=1e-5)
        assert line["ratio_max"] == pytest.approx(float(ratio.max()), rel=1e-5)
        assert line["total_variation_mean"] == pytest.approx(float(variation.mean()), rel=1e-4)
        assert line["total_variation_max"] == pytest.approx(float(variation.max()), rel=1e-4)
        assert line["kl"] == pytest.approx(float(before.kl_to(after).mean()), rel=1e-4)
        assert line["entropy"] == pytest.approx(float(after.entropy().mean()), rel=1e-5)
        assert line["ratio_max"] > 1.05
    trainer = report.trainer
    assert trainer["joint_ratio_min"] == pytest.approx(float(joint.min()), rel=1e-4)
    assert trainer["joint_ratio_max"] == pytest.approx(float(joint.max()), rel=1e-4)
    for name in ("total_variation_mean", "total_variation_max"):
        assert trainer[f"joint_{name}"] == pytest.approx(sum(line[name] for line in report.agents))


@pytest.mark.parametrize("algo", ON_POLICY)
@pytest.mark.parametrize("task", [SPREAD, f"{SPREAD}-continuous"])
def test_every_algorithm_has_the_instruments(algo, task):
    report = Learning(algo, task, agents=3, topology="ring").iterate()
    assert len(report.agents) == 3
    for line in report.agents:
        assert line["ratio_min"] < 1.0 < line["ratio_max"]
        assert 0.0 < line["total_variation_mean"] < line["total_variation_max"] <= 1.0
        assert 0.0 < line["kl"] < 0.1
    assert report.trainer["joint_ratio_min"] < 1.0 < report.trainer["joint_ratio_max"]
    assert report.trainer["joint_total_variation_mean"] < report.trainer["joint_total_variation_max"]


def test_the_team_may_spend_every_agents_share_of_the_trust_region():
    settings = {"kl_step": 0.001, "damping": 1e-3, "accept_ratio": 0.0, "backtrack_kl": 1.2, "num_envs": 32}
    for algo in ("itrpo", "ctrpo"):
        report = Learning(algo, SPREAD, agents=3, **settings).iterate()
        spent = [line["kl"] for line in report.agents]
        assert sum(spent) == pytest.approx(0.003, rel=0.3)
        assert (max(spent) <= 0.0012) == (algo == "itrpo")


@pytest.mark.parametrize("algo", ["happo", "mappo", "ippo"])
def test_the_clip_range_is_divided_by_the_number_of_agents(algo):
    for scaling, expected in (("none", 0.3), ("per-agent", 0.1)):
        algorithm = Learning(algo, SPREAD, agents=3, clip_range=0.3, clip_scaling=scaling).algorithm
        assert clip_range(algorithm.config, 3) == pytest.approx(expected)
        drift = algorithm.mirror().drift
        assert isinstance(drift, ClipDrift)
        ratio, weights = torch.tensor([1.2, 1.5]), torch.ones(2)
        torch.testing.assert_close(drift(ratio, weights, None, None), (ratio - 1 - expected).relu())


@pytest.mark.parametrize(
    ("algo", "settings", "reason"),
    [
        *((algo, {"share_parameters": True}, "policy of its own") for algo in ("hatrpo", "itrpo", "ctrpo", "fdmarl")),
        ("mappo", {"task": "mpe2/simple_speaker_listener_v4", "share_parameters": True, "agents": 2}, "differ"),
        ("fdmarl", {"topology": "no-such-graph"}, "topology"),
        ("jrppo", {"clip_scaling": "per-agent"}, "clips the joint one"),
        ("ctrpo", {"state_type": "fp", "task": SPREAD}, "state_type fp"),
    ],
)
def test_what_an_algorithm_cannot_handle_is_refused_in_one_line(algo, settings, reason):
    task = settings.pop("task", SPREAD)
    with pytest.raises(ConfigError, match=reason) as refused:
        Learning(algo, task, **{"agents": 3, **settings})
    assert "\n" not in str(refused.value)


def test_neighbours_average_their_critics_values():
    """With linear critics the average of the parameters is that of the values, whatever scale each is normalised to."""
    settings = {"agents": 3, "topology": "line", "hidden_sizes": [], "reward_scaling": False}
    learning = Learning("fdmarl", "mpe2/simple_spread_v3", **settings)
    algorithm = learning.algorithm
    for _ in range(2):
        learning.iterate()
    observations, starts = torch.randn(5, 4, algorithm.spec.observation_sizes[0]), torch.zeros(5, 4, dtype=torch.bool)

    def values():
        return torch.stack([critic.values(observations, starts, torch.zeros(4, 0))[0] for critic in algorithm.critics])

    for critic, mean, square in zip(algorithm.critics, (0.0, -5.0, 30.0), (2.0, 26.0, 1000.0), strict=True):
        critic.renormalise(torch.tensor(mean, dtype=torch.float64), torch.tensor(square, dtype=torch.float64))
    before = values()
    algorithm._diffuse()
    weights = torch.tensor([[2 / 3, 1 / 3, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.0, 1 / 3, 2 / 3]])
    expected = torch.einsum("ij,jtb->itb", weights, before)
    torch.testing.assert_close(values(), expected, rtol=1e-3, atol=1e-3)
    assert float(algorithm.critics[0].mean) == pytest.approx(-5.0 / 3)


def test_critics_to_be_averaged_see_zeros_after_shorter_observations():
    learning = Learning("fdmarl", "treasure", agents=4)
    algorithm = learning.algorithm
    learning.iterate()
    assert algorithm.spec.observation_sizes == (20, 20, 20, 19)
    for rollout, view in zip(algorithm._rollouts, algorithm._views, strict=True):
        seen, size = view.observations, rollout.observations.shape[1]
        assert seen.shape[1] == 20
        assert seen[:, :size].any()
        assert torch.equal(seen[:, :size], rollout.observations)
        assert not seen[:, size:].any()


def test_a_central_algorithm_with_a_graph_keeps_no_settings_of_admm(tmp_path):
    config = resolve(("test", {"algo": "fdmarl", "agents": 3, "task": SPREAD}))
    run = RunDirectory.create(tmp_path / "run", config, {})
    assert run.config.beta is None
    assert run.config.admm_iterations is None


def test_the_name_of_a_run_tells_its_graph_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for algo, named in (("fdmarl", True), ("ippo", False)):
        config = resolve(("test", {"algo": algo, "agents": 3, "task": SPREAD, "topology": "line"}))
        assert ("line-3" in RunDirectory.create(None, config, {}).path.name) == named


@pytest.mark.parametrize("task", [SPREAD, f"{SPREAD}-continuous"])
@pytest.mark.parametrize("memory", [0, 1])
@pytest.mark.parametrize("algo", ["mappo", "happo", "ctrpo"])
def test_the_old_policy_is_what_was_acted_by_and_the_new_one_what_improve_leaves(algo, memory, task):
    algorithm, samples, advantages = prepared(algo, task, agents=3, recurrent_layers=memory)
    old = algorithm._acted_by(samples)
    for part, acted, now in zip(samples, old, algorithm._heads(samples), strict=True):
        torch.testing.assert_close(part.log_prob(acted), part.log_prob(now), rtol=1e-5, atol=1e-5)
    algorithm.improve(samples, old, advantages)
    for part, kept, now in zip(samples, algorithm.improved(samples), algorithm._heads(samples), strict=True):
        assert torch.equal(part.log_prob(kept), part.log_prob(now))
