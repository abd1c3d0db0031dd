"""QMIX and HAD3QN: the mixer, the targets, who learns what in which order, and action masks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matrpo.algorithms.had3qn import QNetwork
from matrpo.algorithms.qmix import Mixer
from matrpo.algorithms.shared.replay import Batch, JointObservation
from matrpo.algorithms.shared.value_based import choices, combined, number
from matrpo.build import build_algorithm
from matrpo.envs.central import CentralEnvironment
from matrpo.envs.shared import SharedEnvironment
from matrpo.envs.vector_env import ActorInput, VectorEnv, VectorStep
from matrpo.errors import ConfigError
from matrpo.settings.config import resolve
from matrpo.spaces import Discrete, MultiDiscrete, TaskSpec


class MaskedEnv(VectorEnv):
    """Agents with three and two actions. At time t action t % 3, and of the second agent t % 2, is not allowed.

    Episodes of even environments terminate after 5 steps, those of odd ones are cut after 7; agent 1 is out after 3.
    """

    spec = TaskSpec("masked", ("first", "second"), (2, 3), (Discrete(3), Discrete(2)))

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self._times = np.zeros(num_envs, dtype=int)

    def reset(self):
        self._times[:] = 0
        return self.observe()

    def observe(self):
        return [np.repeat(self._times[:, None], size, axis=1).astype(np.float32) for size in (2, 3)]

    def action_masks(self):
        return [self._times[:, None] % n != np.arange(n) for n in (3, 2)]

    def step(self, joint_action):
        self._check_action(joint_action)
        for q, mask in enumerate(self.action_masks()):
            assert np.take_along_axis(mask, joint_action[:, q : q + 1].astype(int), axis=1).all()
        self._times += 1
        even = np.arange(self.num_envs) % 2 == 0
        over, cut = even & (self._times == 5), ~even & (self._times == 7)
        terminated = np.stack([over, (self._times >= 3) & ~cut], axis=1)
        truncated = np.stack([cut, cut], axis=1)
        finals = self.observe()
        ended = over | cut
        self._times[ended] = 0
        rewards = np.ones((self.num_envs, 2))
        return VectorStep(self.observe(), rewards, terminated, truncated, finals if ended.any() else None)


def build(algo, **changes):
    settings = {"algo": algo, "task": "navigation", "hidden_sizes": [8], "dueling_sizes": [4], "mixer_size": 4}
    defaults = {"num_envs": 4, "rollout_length": 40, "share_parameters": False, "warmup_steps": 40, "batch_size": 30}
    config = resolve(("test", {**settings, **defaults, "checkpoint_every": 1, **changes}))
    env = MaskedEnv(config.num_envs)
    return env, build_algorithm(env, config)


def random_batch():
    size, generator = 30, torch.Generator().manual_seed(1)

    def moment():
        masks = [torch.rand(size, n, generator=generator) > 0.4 for n in (3, 2)]
        for mask in masks:
            mask[:, 1] = True
        observations = [torch.randn(size, n, generator=generator) for n in (2, 3)]
        alive = torch.rand(size, 2, generator=generator) > 0.2
        return JointObservation(torch.randn(size, 5, generator=generator), observations, masks, alive)

    actions = torch.stack([torch.randint(n, (size,), generator=generator) for n in (3, 2)], dim=1).float()
    discounts = 0.9 * (torch.rand(size, generator=generator) > 0.3)
    return Batch(moment(), actions, torch.randn(size, generator=generator), discounts, moment())


@given(
    st.integers(1, 6),
    st.integers(1, 8),
    st.integers(0, 2**31),
    st.floats(0.01, 100.0),
)
def test_the_mixer_is_monotonic_in_every_utility(num_agents, size, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    config = resolve(("test", {"algo": "qmix", "task": "navigation", "mixer_size": size}))
    mixer = Mixer(num_agents, 4, config, generator)
    utilities = (scale * torch.randn(16, num_agents, generator=generator)).requires_grad_()
    states = scale * torch.randn(16, 4, generator=generator)
    (gradient,) = torch.autograd.grad(mixer(utilities, states).sum(), utilities)
    assert (gradient >= 0.0).all()
    assert (gradient > 0.0).any()
    higher = utilities.detach() + torch.rand(16, num_agents, generator=generator, dtype=torch.float32)
    double, states = mixer.double(), states.double()
    assert (double(higher.double(), states) >= double(utilities.detach().double(), states)).all()


def test_the_best_joint_action_by_qmix_is_what_is_best_for_everyone():
    _, algorithm = build("qmix")
    batch = random_batch()
    utilities = algorithm.utilities(algorithm.actors, batch.now.observations)
    values = {}
    for a in range(3):
        for b in range(2):
            chosen = torch.stack([utilities[0][:, a], utilities[1][:, b]], dim=1)
            values[a, b] = algorithm.mixer(chosen, batch.now.state).detach()
    best = torch.stack(list(values.values())).amax(0)
    greedy = [torch.as_tensor(own.argmax(1)) for own in utilities]
    found = torch.stack([values[int(a), int(b)][m] for m, (a, b) in enumerate(zip(*greedy, strict=True))])
    torch.testing.assert_close(found, best)


def test_qmix_targets_are_double_q_learnings_among_allowed_actions():
    _, algorithm = build("qmix")
    with torch.no_grad():
        for actor in algorithm.actors:
            for parameter in actor.parameters():
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=algorithm.generator))
    batch = random_batch()
    later, chosen = batch.later, torch.zeros(30, 2)
    disagreements = 0
    for m in range(30):
        for q in range(2):
            own = algorithm.actors[q](later.observations[q][m]).detach().numpy()
            allowed = [a for a in range(len(own)) if later.action_masks[q][m, a]]
            best = max(allowed, key=own.__getitem__)
            target = algorithm.target_actors[q](later.observations[q][m])
            disagreements += best != int(target.argmax())
            chosen[m, q] = target[best] if later.alive[m, q] else 0.0
    assert disagreements > 0
    expected = batch.rewards + batch.discounts * algorithm.target_mixer(chosen, later.state)
    torch.testing.assert_close(algorithm.targets(batch), expected.detach())


def test_shared_utilities_are_one_network_told_whose_turn_it_is():
    spec = TaskSpec("twins", ("a", "b"), (3, 3), (Discrete(2), Discrete(2)))
    config = resolve(("test", {"algo": "qmix", "task": "navigation", "hidden_sizes": [8], "share_parameters": True}))
    env = SimpleNamespace(
        spec=spec,
        reset=lambda: None,
        state=lambda: np.zeros((1, 4)),
        action_masks=lambda: [None, None],
    )
    algorithm = build_algorithm(env, config)
    assert algorithm.actors[0] is algorithm.actors[1]
    assert algorithm.target_actors[0] is algorithm.target_actors[1]
    observations = [torch.randn(5, 3), torch.randn(5, 3)]
    found = algorithm.utilities(algorithm.actors, observations)
    for q in range(2):
        whose = torch.eye(2)[q].expand(5, 2)
        torch.testing.assert_close(found[q], algorithm.actors[0](torch.cat([observations[q], whose], dim=1)))


def test_had3qn_targets_let_target_networks_choose_among_allowed_actions():
    _, algorithm = build("had3qn")
    batch = random_batch()
    later, values = batch.later, []
    for m in range(30):
        best = []
        for q in range(2):
            own = algorithm.target_actors[q](later.observations[q][m]).detach().numpy()
            best.append(max((a for a in range(len(own)) if later.action_masks[q][m, a]), key=own.__getitem__))
        values.append(algorithm.target_critic(later.state[m])[2 * best[0] + best[1]].detach())
    torch.testing.assert_close(algorithm.targets(batch), batch.rewards + batch.discounts * torch.stack(values))


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_had3qn_fits_each_agent_to_the_critic_at_the_best_actions_of_those_before_it(order):
    _, algorithm = build("had3qn")
    batch = random_batch()
    joint_values = torch.randn(30, 3, 2, generator=torch.Generator().manual_seed(2))
    losses = {}
    algorithm.update_order = lambda: order
    algorithm.descend = lambda name, loss: losses.setdefault(name, float(loss.detach()))
    taken = [batch.actions[:, q : q + 1].long() for q in range(2)]
    algorithm.improve(batch, taken, joint_values)
    expected = {}
    for q in range(2):
        own = algorithm.actors[q](batch.now.observations[q]).detach()
        squares = []
        for m in range(30):
            actions = [int(part[m]) for part in taken]
            if q != order[0]:
                first = order[0]
                row = joint_values[m, :, actions[1]] if first == 0 else joint_values[m, actions[0]]
                allowed = [a for a in range(len(row)) if batch.now.action_masks[first][m, a]]
                actions[first] = max(allowed, key=row.tolist().__getitem__)
            target = joint_values[m, actions[0], actions[1]]
            squares.append((own[m, int(taken[q][m])] - target) ** 2)
        expected[f"policy.{q}"] = float(torch.stack(squares)[batch.now.alive[:, q]].mean())
    assert losses == pytest.approx(expected, rel=1e-5)


def test_a_dueling_networks_advantages_have_mean_zero():
    config = resolve(("test", {"algo": "had3qn", "task": "navigation", "hidden_sizes": [8]}))
    network = QNetwork(3, 4, config, torch.Generator().manual_seed(0))
    inputs = torch.randn(6, 3)
    values = network._value(network._base.hidden(network._base(inputs))).squeeze(1)
    torch.testing.assert_close(network(inputs).mean(1), values)


def test_without_dueling_a_network_has_one_head_of_which_outputs_are_q_values():
    plain, dueling = (
        resolve(("test", {"algo": "had3qn", "task": "navigation", "hidden_sizes": [8], "dueling": dueling}))
        for dueling in (False, True)
    )
    network = QNetwork(3, 4, plain, torch.Generator().manual_seed(0))
    inputs = torch.randn(6, 3)
    assert torch.equal(network(inputs), network._advantage(network._base.hidden(network._base(inputs))))
    left_out = set(QNetwork(3, 4, dueling, torch.Generator()).state_dict()) - set(network.state_dict())
    assert left_out == {f"_value.layers.{layer}.{name}" for layer in (0, 1) for name in ("weight", "bias")}


@pytest.mark.parametrize("algo", ["had3qn", "qmix"])
def test_only_allowed_actions_are_taken_warming_up_exploring_and_deployed(tmp_path, algo):
    env, algorithm = build(algo, epsilon=0.5, n_step=2)
    algorithm.open_files(tmp_path, resume=False)
    central = CentralEnvironment(SharedEnvironment(env, 0.9, False), "ep")
    step = central.reset()
    for iteration in range(1, 3):
        for _ in range(40):
            step = central.step(algorithm.act(step))  # the environment checks
            algorithm.observe(step)
        report = algorithm.update(iteration)
    assert np.isfinite(report.trainer["critic_loss"])
    actor, generator = algorithm.actor(4), torch.Generator().manual_seed(0)
    for deterministic in (True, False):
        seen = env.actor_inputs(env.observe(), np.zeros((4, 2), dtype=bool))
        env.step(actor.act(seen, generator, deterministic))
    batch = algorithm.replay.sample(2000, 2, 0.9, generator)
    times, later = batch.now.state[:, 0].long(), batch.later.state[:, 0].long()
    for q, n in enumerate((3, 2)):
        assert torch.equal(batch.now.action_masks[q], times.unsqueeze(1) % n != torch.arange(n))
    assert torch.equal(batch.now.alive, torch.stack([times >= 0, times < 3], dim=1))
    assert set(times.tolist()) == set(range(7))
    assert int(later.max()) == 7
    steps, over = later - times, batch.discounts == 0.0
    assert over.any()
    assert (later[over] == 5).all()
    torch.testing.assert_close(batch.discounts[~over], 0.9 ** steps[~over])
    torch.testing.assert_close(batch.rewards, torch.where(steps == 2, 2.0 + 0.9 * 2.0, 2.0))


def test_epsilon_falls_linearly_after_the_warm_up():
    _, algorithm = build("qmix", epsilon=0.1, epsilon_steps=900, warmup_steps=100)
    found = []
    for steps in (0, 100, 400, 1000, 5000):
        algorithm._steps = steps
        found.append(algorithm.epsilon)
    assert found == pytest.approx([1.0, 1.0, 0.7, 0.1, 0.1])
    _, constant = build("had3qn", epsilon=0.1)
    assert constant.epsilon == 0.1


def test_exploration_strays_with_probability_epsilon():
    _, algorithm = build("had3qn", epsilon=0.3)
    goes_on = np.zeros(20_000, dtype=bool)
    seen = [ActorInput(np.zeros((20_000, size), np.float32), None, goes_on) for size in (2, 3)]
    generator = torch.Generator().manual_seed(0)
    best = algorithm.choose(seen, generator, explore=False)
    tried = algorithm.choose(seen, generator, explore=True)
    for a, b, n in zip(best, tried, (3, 2), strict=True):
        assert float((a != b).float().mean()) == pytest.approx(0.3 * (n - 1) / n, abs=0.01)


@pytest.mark.parametrize("algo", ["haddpg", "hatd3", "maddpg", "matd3"])
def test_tasks_with_action_masks_are_refused_where_there_is_no_way_to_heed_them(algo):
    with pytest.raises(ConfigError, match=f"{algo} cannot handle masked, which does not allow every action"):
        build(algo)


sizes_of_factors = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@settings(max_examples=40)
@given(sizes_of_factors)
def test_combinations_are_numbered_without_gaps(sizes):
    numbers = torch.arange(int(np.prod(sizes))).unsqueeze(1)
    found = choices(numbers, sizes)
    assert found.shape == (len(numbers), len(sizes))
    assert torch.equal(number(found, sizes), numbers)
    assert (found < torch.tensor(sizes)).all()


@settings(max_examples=40)
@given(sizes_of_factors, st.integers(0, 2**31))
def test_a_combination_is_allowed_where_all_its_choices_are(sizes, seed):
    mask = torch.rand(3, sum(sizes), generator=torch.Generator().manual_seed(seed)) < 0.6
    allowed, parts = combined(mask, sizes), torch.split(mask, sizes, dim=1)
    for index, row in enumerate(np.ndindex(*sizes)):
        expected = torch.stack([part[:, chosen] for part, chosen in zip(parts, row, strict=True)]).all(0)
        assert torch.equal(allowed[:, index], expected)


class FactoredEnv(VectorEnv):
    """An agent with a choice of three and of two, and one of two; episodes of a step. Some choices are ruled out.

    Paid is 1 for each of the choices 2 and 1, and 1, that are made.
    """

    spec = TaskSpec("factored", ("pair", "single"), (1, 1), (MultiDiscrete((3, 2)), Discrete(2)))
    masks = ((True, False, True, True, True), (True, True))

    def __init__(self, num_envs):
        self.num_envs = num_envs

    def reset(self):
        return self.observe()

    def observe(self):
        return [np.ones((self.num_envs, 1), np.float32)] * 2

    def action_masks(self):
        return [np.array([mask] * self.num_envs) for mask in self.masks]

    def step(self, joint_action):
        self._check_action(joint_action)
        assert (joint_action[:, 0] != 1).all()
        paid = (joint_action == (2, 1, 1)).astype(float)
        rewards, ended = np.stack([paid[:, :2].sum(1), paid[:, 2]], axis=1), np.ones((self.num_envs, 2), dtype=bool)
        return VectorStep(self.observe(), rewards, ended, ~ended, self.observe())


def test_targets_take_the_best_combination_that_is_allowed():
    env = FactoredEnv(4)
    settings = {"algo": "had3qn", "task": "navigation", "hidden_sizes": [8], "dueling_sizes": [4], "num_envs": 4}
    algorithm = build_algorithm(env, resolve(("test", {**settings, "share_parameters": False})))
    assert algorithm.num_actions == [6, 2]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for network in (*algorithm.target_actors, algorithm.target_critic):
            for parameter in network.parameters():
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    masks = [torch.tensor([mask] * 30) for mask in env.masks]
    alive = torch.ones(30, 2, dtype=torch.bool)
    observations = [torch.randn(30, 1, generator=generator) for _ in range(2)]
    later = JointObservation(torch.randn(30, 2, generator=generator), observations, masks, alive)
    actions = torch.tensor([[2.0, 1.0, 0.0]] * 30)
    batch = Batch(later, actions, torch.zeros(30), torch.ones(30), later)
    expected = []
    for m in range(30):
        pair = algorithm.target_actors[0](observations[0][m]).tolist()
        best = max((2 * a + b for a in (0, 2) for b in (0, 1)), key=pair.__getitem__)
        single = int(algorithm.target_actors[1](observations[1][m]).argmax())
        expected.append(algorithm.target_critic(later.state[m])[2 * best + single].detach())
    torch.testing.assert_close(algorithm.targets(batch), torch.stack(expected))
    assert [index[0].item() for index in algorithm.indices(actions)] == [5, 0]


@pytest.mark.parametrize("algo", ["qmix", "had3qn"])
def test_combinations_that_are_not_allowed_are_never_done(algo, tmp_path):
    """The task raises if one is."""
    settings = {"algo": algo, "task": "navigation", "hidden_sizes": [8], "dueling_sizes": [4], "mixer_size": 4}
    sizes = {"num_envs": 10, "rollout_length": 10, "share_parameters": False, "warmup_steps": 50, "batch_size": 20}
    config = resolve(("test", {**settings, **sizes, "updates_per_step": 0.2, "epsilon_steps": 100}))
    env = FactoredEnv(config.num_envs)
    algorithm = build_algorithm(env, config)
    algorithm.open_files(tmp_path, resume=False)
    central = CentralEnvironment(SharedEnvironment(env, 0.9, reward_scaling=False), "ep")
    step, done = central.reset(), set()
    for iteration in range(1, 4):
        for _ in range(config.rollout_length):
            acted = algorithm.act(step)
            done |= set(map(tuple, acted.tolist()))
            step = central.step(acted)
            algorithm.observe(step)
        algorithm.update(iteration)
    assert len(done) == 2 * 2 * 2
    acted = algorithm.actor(10).act([agent.seen for agent in step.agents], algorithm.generator, deterministic=True)
    assert acted.shape == (10, 3)
    central.step(acted)


def test_too_many_combinations_are_refused_in_one_line():
    env = FactoredEnv(4)
    env.spec = TaskSpec("factored", ("pair", "single"), (1, 1), (MultiDiscrete((8,) * 5), Discrete(2)))
    config = resolve(("test", {"algo": "qmix", "task": "navigation"}))
    with pytest.raises(ConfigError, match="each of the 32768 combinations of what agent 'pair'") as caught:
        build_algorithm(env, config)
    assert "\n" not in str(caught.value)
