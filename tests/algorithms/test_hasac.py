"""HASAC: its targets and gradients against the formulas, its order of updates, one agent's as SAC, what it ends at."""

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal, TanhTransform, TransformedDistribution
from transitions import build, perceptron, random_batch

from matrpo.algorithms.hasac import HASAC, Choices, SquashedGaussian, largest_entropy
from matrpo.algorithms.shared.replay import JointObservation
from matrpo.settings.config import resolve
from matrpo.spaces import Box, Discrete, MultiDiscrete, TaskSpec

ALL_KINDS = TaskSpec("kinds", ("a", "b", "c"), (2, 3, 4), (Box(2, -1.0, 1.0), MultiDiscrete((3, 2)), Discrete(4)))
ONE = TaskSpec("one", ("a",), (3,), (Box(2, -1.0, 1.0),))


def hasac(spec: TaskSpec, **settings: Any) -> HASAC:
    """An algorithm whose policies are far from uniform, and its temperatures from equal."""
    values = {"algo": "hasac", "agents": spec.num_agents, "hidden_sizes": [8], "activation": "relu", **settings}
    algorithm = HASAC(spec, (5,), resolve(("test", values)))
    with torch.no_grad():
        for actor in algorithm.actors:
            for layer in (part for part in actor.modules() if isinstance(part, nn.Linear)):
                layer.weight.normal_(std=0.3, generator=algorithm.generator)
        for network in algorithm.target_values:
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=algorithm.generator))
        if algorithm.config.temperature is None:
            algorithm.temperatures.logarithms.copy_(torch.linspace(-1.0, 0.5, spec.num_agents))
    return algorithm


def noise_of(space: Any, size: int, generator: torch.Generator) -> list[np.ndarray]:
    """What a draw of actions is made of: Gaussian noise, or Gumbel noise of each factor."""
    if isinstance(space, Box):
        return [torch.randn(size, space.size, generator=generator).double().numpy()]
    exponential = (torch.empty(size, n).exponential_(generator=generator) for n in space.sizes)
    return [-np.log(part.double().numpy()) for part in exponential]


def by_hand(algorithm: HASAC, agent: int, seen: Any, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An agent's encoded actions and their log probabilities."""
    space = algorithm.spec.action_spaces[agent]
    outputs = perceptron(algorithm.actors[agent], seen.observations[agent].numpy()).astype(np.float64)
    noise = noise_of(space, len(outputs), generator)
    if isinstance(space, Box):
        mean, log_std = np.split(outputs, 2, axis=1)
        u = mean + np.exp(log_std) * noise[0]
        density = np.exp(-0.5 * noise[0] ** 2) / np.sqrt(2.0 * np.pi) / np.exp(log_std) / (1.0 - np.tanh(u) ** 2)
        return np.tanh(u), np.log(density).sum(1)
    weights = np.exp(outputs) * seen.action_masks[agent].numpy()
    ends = np.cumsum(space.sizes)[:-1]
    actions, log_prob = [], np.zeros(len(outputs))
    for part, gumbel in zip(np.split(weights, ends, axis=1), noise, strict=True):
        probabilities = part / part.sum(1, keepdims=True)
        with np.errstate(divide="ignore"):
            chosen = (np.log(probabilities) + gumbel).argmax(1)
        actions.append(np.eye(part.shape[1])[chosen])
        log_prob += np.log(probabilities[np.arange(len(chosen)), chosen])
    return np.concatenate(actions, axis=1), log_prob


def test_soft_targets_equal_a_computation_by_hand() -> None:
    algorithm = hasac(ALL_KINDS)
    batch = random_batch(algorithm, allowed=0.6)
    algorithm.generator.manual_seed(5)
    targets = algorithm.targets(batch)
    source = torch.Generator().manual_seed(5)
    draws = [by_hand(algorithm, agent, batch.later, source) for agent in range(3)]
    joint = np.concatenate([batch.later.state.numpy(), *(actions for actions, _ in draws)], axis=1)
    first, second = (perceptron(network, joint)[:, 0] for network in algorithm.target_values)
    assert (first < second).any()
    assert (first > second).any()
    alive = batch.later.alive.numpy()
    entropies = sum(math.exp(log) * alive[:, q] * draws[q][1] for q, log in enumerate((-1.0, -0.25, 0.5)))
    expected = batch.rewards.numpy() + batch.discounts.numpy() * (np.minimum(first, second) - entropies)
    np.testing.assert_allclose(targets.numpy(), expected, rtol=1e-4, atol=1e-4)
    ended = batch.discounts == 0
    assert ended.any()
    assert torch.equal(targets[ended], batch.rewards[ended])


def gradient(algorithm: HASAC, name: str) -> Tensor:
    """The gradient of an optimiser's last step."""
    parts = [parameter.grad for parameter in algorithm.optimizers[name].param_groups[0]["params"]]
    return torch.cat([part.flatten() for part in parts if part is not None])


def least(networks: list[Any], inputs: Tensor) -> Tensor:
    return torch.minimum(*(network(inputs).squeeze(1) for network in networks))


def test_a_continuous_policys_gradient_is_that_of_the_written_formula() -> None:
    """Against float64 copies of the networks, and torch's own tanh of a normal distribution."""
    algorithm = hasac(ALL_KINDS)
    batch = random_batch(algorithm)
    actor, *critics = (copy.deepcopy(each).double() for each in (algorithm.actors[0], *algorithm.value_networks))
    algorithm.generator.manual_seed(5)
    draw, *others = algorithm.draws(batch.now)
    actions = [draw.actions, *(other.actions.detach() for other in others)]
    algorithm.ascend(0, batch, actions, draw.log_prob)

    mean, log_std = actor._network(batch.now.observations[0].double()).chunk(2, dim=1)
    noise = torch.randn(40, 2, generator=torch.Generator().manual_seed(5)).double()
    policy = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    chosen = (mean + log_std.exp() * noise).tanh()
    log_prob = policy.log_prob(chosen).sum(1)
    joint = torch.cat([batch.now.state, chosen, *actions[1:]], dim=1)
    alive = batch.now.alive[:, 0]
    loss = (math.exp(-1.0) * log_prob - least(critics, joint))[alive].mean()
    expected = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(actor.parameters()))])
    torch.testing.assert_close(gradient(algorithm, "policy.0").double(), expected, rtol=1e-3, atol=1e-5)
    assert expected.norm() > 0.1


def test_a_discrete_policys_gradient_is_the_straight_through_estimate() -> None:
    """(alpha log p - dQ/da) times the Jacobian of the relaxed draw, and the score of the choice times alpha."""
    algorithm = hasac(ALL_KINDS)
    batch = random_batch(algorithm, allowed=0.6)
    actor, *critics = (copy.deepcopy(each).double() for each in (algorithm.actors[2], *algorithm.value_networks))
    draws = algorithm.draws(batch.now)
    algorithm.generator.manual_seed(5)
    draw = algorithm.draw(2, batch.now)
    actions = [draws[0].actions.detach(), draws[1].actions.detach(), draw.actions]
    algorithm.ascend(2, batch, actions, draw.log_prob)

    logits = actor._network(batch.now.observations[2].double())
    log_probs = logits.masked_fill(~batch.now.action_masks[2], -1e10).log_softmax(1)
    (gumbel,) = noise_of(Discrete(4), 40, torch.Generator().manual_seed(5))
    scores = log_probs.detach() + torch.from_numpy(gumbel)
    relaxed, probs = scores.softmax(1), log_probs.detach().exp()
    chosen = nn.functional.one_hot(scores.argmax(1), 4).double().requires_grad_()
    value = least(critics, torch.cat([batch.now.state.double(), *actions[:2], chosen], dim=1)).sum()
    slopes = math.exp(0.5) * log_probs.detach() - torch.autograd.grad(value, chosen)[0]
    cotangent = relaxed * (slopes - (relaxed * slopes).sum(1, keepdim=True)) + math.exp(0.5) * (chosen - probs)
    alive = batch.now.alive[:, 2:].double()
    weights = (cotangent * alive / alive.sum()).detach()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(logits, list(actor.parameters()), weights)])
    torch.testing.assert_close(gradient(algorithm, "policy.2").double(), expected, rtol=1e-3, atol=1e-5)
    assert expected.norm() > 0.1


def test_temperatures_descend_the_gap_to_the_target_entropies() -> None:
    """-2 for two components; 0.98 of the logarithm of the number of choices; half of it."""
    algorithm = hasac(ALL_KINDS)
    batch = random_batch(algorithm)
    log_probs = algorithm.improve(batch)
    before = algorithm.temperatures.logarithms.detach().clone()
    for share in (0.98, 0.5):
        algorithm.config = dataclasses.replace(algorithm.config, target_entropy=share)
        algorithm.adjust(batch.now, log_probs)
        targets = (-2.0, share * (math.log(3) + math.log(2)), share * math.log(4))
        gaps = [-(log_probs[:, q] + target)[batch.now.alive[:, q]].mean() for q, target in enumerate(targets)]
        torch.testing.assert_close(gradient(algorithm, "temperatures"), torch.stack(gaps))
    assert not torch.equal(before, algorithm.temperatures.logarithms)
    fixed = hasac(ALL_KINDS, temperature=0.3)
    fixed.learn(random_batch(fixed))
    torch.testing.assert_close(fixed.temperatures.values, torch.full((3,), 0.3))


def test_the_largest_entropy_is_of_the_choices_that_are_allowed() -> None:
    masks = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 1, 0, 1, 1]]) > 0
    expected = [math.log(3) + math.log(2), math.log(2), math.log(2)]
    assert largest_entropy(masks, (3, 2)).tolist() == pytest.approx(expected)


def test_agents_ascend_in_turn_knowing_the_new_actions_of_those_before_them() -> None:
    algorithm = hasac(ALL_KINDS, actor_lr=0.05)
    batch = random_batch(algorithm)
    events: list[tuple[str, int, Any]] = []
    draw, ascend = algorithm.draw, algorithm.ascend

    def recorded_draw(agent: int, seen: Any) -> Any:
        drawn = draw(agent, seen)
        events.append(("draw", agent, drawn.actions.detach().clone()))
        return drawn

    def recorded_ascend(agent: int, batch: Any, actions: list[Tensor], log_prob: Tensor) -> None:
        events.append(("ascend", agent, [each.detach().clone() for each in actions]))
        ascend(agent, batch, actions, log_prob)

    algorithm.draw, algorithm.ascend = recorded_draw, recorded_ascend  # type: ignore[method-assign]
    algorithm.improve(batch)
    assert [kind for kind, *_ in events] == ["draw"] * 3 + ["ascend", "draw"] * 3
    order = [agent for kind, agent, _ in events if kind == "ascend"]
    assert sorted(order) == [0, 1, 2]
    assert [agent for _, agent, _ in events[4::2]] == order
    latest = {agent: drawn for _, agent, drawn in events[:3]}
    for (_, agent, given), (_, _, again) in zip(events[3::2], events[4::2], strict=True):
        assert all(torch.equal(given[other], latest[other]) for other in range(3))
        latest[agent] = again


class SAC:
    """Soft actor-critic of one agent (Haarnoja et al., 2018), written apart, on copies of the networks."""

    def __init__(self, algorithm: HASAC, target_entropy: float) -> None:
        networks = (algorithm.actors[0], *algorithm.value_networks, *algorithm.target_values)
        self.actor, *critics = (copy.deepcopy(network) for network in networks)
        self.critics, self.slow = critics[:2], critics[2:]
        self.log_alpha = algorithm.temperatures.logarithms.detach().clone().requires_grad_()
        config, self.target_entropy = algorithm.config, target_entropy
        both = [parameter for critic in self.critics for parameter in critic.parameters()]
        self.critic_adam = torch.optim.Adam(both, config.critic_lr)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), config.actor_lr)
        self.alpha_adam = torch.optim.Adam([self.log_alpha], config.temperature_lr)
        self.polyak = config.polyak

    def act(self, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor._network(observations).chunk(2, dim=1)
        u = mean + log_std.exp() * noise
        log_prob = Normal(mean, log_std.exp()).log_prob(u) - torch.log(1.0 - u.tanh().square())
        return u.tanh(), log_prob.sum(1)

    def update(self, batch: Any, later_noise: Tensor, noise: Tensor) -> None:
        alpha, alive = self.log_alpha.exp().detach(), batch.now.alive[:, 0].float()
        with torch.no_grad():
            actions, log_prob = self.act(batch.later.observations[0], later_noise)
            value = least(self.slow, torch.cat([batch.later.state, actions], dim=1))
            target = batch.rewards + batch.discounts * (value - alpha * log_prob * batch.later.alive[:, 0])
        taken = torch.cat([batch.now.state, batch.actions], dim=1)
        errors = [critic(taken).squeeze(1) - target for critic in self.critics]
        self._step(self.critic_adam, sum(error.square().mean() for error in errors))
        actions, log_prob = self.act(batch.now.observations[0], noise)
        value = least(self.critics, torch.cat([batch.now.state, actions], dim=1))
        self._step(self.actor_adam, ((alpha * log_prob - value) * alive).sum() / alive.sum())
        gap = ((log_prob.detach() + self.target_entropy) * alive).sum() / alive.sum()
        self._step(self.alpha_adam, -(self.log_alpha * gap).sum())
        for slow, fast in zip(self.slow, self.critics, strict=True):
            for p, q in zip(slow.parameters(), fast.parameters(), strict=True):
                p.data.mul_(1.0 - self.polyak).add_(self.polyak * q.data)

    def _step(self, adam: torch.optim.Adam, loss: Any) -> None:
        adam.zero_grad()
        loss.backward()
        adam.step()


def test_one_agents_updates_are_those_of_sac() -> None:
    algorithm = hasac(ONE, polyak=0.1, critic_lr=0.01, actor_lr=0.01, temperature_lr=0.02)
    batch = random_batch(algorithm)
    alone = SAC(algorithm, target_entropy=-2.0)
    algorithm.generator.manual_seed(5)
    source = torch.Generator().manual_seed(5)
    for _ in range(5):
        algorithm.learn(batch)
        noises = [torch.randn(40, 2, generator=source) for _ in range(2)]
        alone.update(batch, *noises)
        torch.randperm(1, generator=source)  # the order of the agents
        torch.randn(40, 2, generator=source)  # the new actions, for those after it
    pairs = zip((*algorithm.actors, *algorithm.target_values), (alone.actor, *alone.slow), strict=True)
    for ours, theirs in pairs:
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(algorithm.temperatures.logarithms, alone.log_alpha, rtol=1e-4, atol=1e-5)
    assert (alone.log_alpha + 1.0).abs() > 0.05


def test_squashed_densities_are_torchs_and_stay_finite_at_the_bounds() -> None:
    mean, log_std = torch.tensor([[0.3, -1.0]]).repeat(5, 1), torch.tensor([[-0.5, 0.4]]).repeat(5, 1)
    draw = SquashedGaussian(mean, log_std).draw(torch.Generator().manual_seed(0))
    policy = TransformedDistribution(Normal(mean.double(), log_std.double().exp()), TanhTransform())
    torch.testing.assert_close(draw.log_prob.double(), policy.log_prob(draw.actions.double()).sum(1), rtol=1e-4, atol=0)
    far = SquashedGaussian(torch.full((1, 1), 40.0), torch.zeros(1, 1)).draw(torch.Generator().manual_seed(0))
    assert far.actions.item() == 1.0
    assert far.log_prob.item() == pytest.approx(80.0, abs=5.0)


def test_choices_are_drawn_as_often_as_is_probable_and_never_against_the_mask() -> None:
    logits = torch.tensor([[1.0, -1e10, 0.3]]).repeat(20_000, 1).requires_grad_()
    choices = Choices([logits, torch.zeros(20_000, 2)])
    draw = choices.draw(torch.Generator().manual_seed(0))
    probabilities = Categorical(logits=logits[0]).probs.detach()
    torch.testing.assert_close(draw.actions.detach().mean(0)[:3], probabilities, rtol=0, atol=0.015)
    assert not draw.actions[:, 1].any()
    expected = probabilities.log()[draw.actions[:, :3].argmax(1)] + math.log(0.5)
    torch.testing.assert_close(draw.log_prob.detach(), expected)
    assert choices.mode()[0].tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]
    (slopes,) = torch.autograd.grad(draw.log_prob.sum(), logits)
    assert slopes.isfinite().all()
    assert not slopes[:, 1].any()


def test_a_box_has_no_masks_in_the_replay_buffer() -> None:
    continuous = build("hasac", "mpe2/simple_spread_v3-continuous", agents=3)
    without = build("hatd3", "mpe2/simple_spread_v3-continuous", agents=3)
    assert continuous._layout.size == without._layout.size
    discrete = build("hasac", "mpe2/simple_spread_v3", agents=3)
    assert discrete._layout.size == build("hatd3", "mpe2/simple_spread_v3", agents=3)._layout.size + 3 * 5


def ascend_linear_critics(algorithm: HASAC, updates: int = 200) -> tuple[JointObservation, Tensor]:
    """Let policies ascend critics that are linear in the actions, with random coefficients, for long.

    Returns:
        Where they act, and how far each agent's mean entropy was above its target in every update.
    """
    batch = random_batch(algorithm, size=1000, allowed=0.6)
    alive, targets, gaps = batch.now.alive, algorithm.target_entropies(batch.now), []
    first, second = algorithm.value_networks
    second.load_state_dict(first.state_dict())
    for update in range(updates):
        for optimizer in algorithm.optimizers.values():
            optimizer.param_groups[0]["lr"] = 0.1 * (1.0 - update / updates)
        log_probs = algorithm.improve(batch)
        gaps.append(((-log_probs - targets) * alive).sum(0) / alive.sum(0))
        if algorithm.config.temperature is None:
            algorithm.adjust(batch.now, log_probs)
    return batch.now, torch.stack(gaps)


def test_a_fixed_temperature_ends_at_the_quantal_response() -> None:
    """pi^i(a) is in proportion to exp(E Q(s, a, a^-i) / alpha), the paper's equilibrium; Q is a sum over choices."""
    spec = TaskSpec("choices", ("a", "b"), (1, 1), (Discrete(3), MultiDiscrete((2, 3))))
    algorithm = hasac(spec, hidden_sizes=[], temperature=0.5)
    now, _ = ascend_linear_critics(algorithm)
    values = algorithm.value_networks[0].output_layer.weight[0, 5:].detach().split([3, 2, 3])
    masks = [*now.action_masks[0].split([3], 1), *now.action_masks[1].split([2, 3], 1)]
    policies = [algorithm.actors[q](now.observations[q], now.action_masks[q]) for q in range(2)]
    found = [log_probs for policy in policies for log_probs in policy._log_probs]
    for value, mask, log_probs in zip(values, masks, found, strict=True):
        expected = (value / 0.5).masked_fill(~mask, -math.inf).softmax(1)
        torch.testing.assert_close(log_probs.detach().exp(), expected, rtol=0, atol=0.05)
        assert (expected.std(0) > 0.1).all()


def test_learned_temperatures_hold_the_target_entropies() -> None:
    _, gaps = ascend_linear_critics(hasac(ALL_KINDS, hidden_sizes=[], target_entropy=0.4))
    assert (gaps[0] > 0.5).all()
    assert gaps[-50:].mean(0).tolist() == pytest.approx([0.0] * 3, abs=0.1)
