"""What the papers say holds exactly: Lemma 4, Proposition 9, the trust-region step, the compound advantage."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import torch
from learning import TINY, Learning

from dense import dense_hessian, dense_jacobian, dense_kkt, draw_samples, make_policy, make_spec
from matrpo.algorithms.hatrpo import HATRPO
from matrpo.algorithms.shared.haml import HAML
from matrpo.algorithms.shared.learner import Samples
from matrpo.algorithms.shared.mirror import Mirror, NoDrift
from matrpo.networks.mlp import flat_parameters
from matrpo.settings.config import resolve
from matrpo.spaces import Box, Discrete

ACTIONS = (2, 3, 2)
GAMMA = 0.9


class MarkovGame:
    """Two states, three agents; rewards, transitions and policies drawn at random, every value exact."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.joint = list(product(*map(range, ACTIONS)))
        self.policies = [random.dirichlet(np.ones(n), size=2) for n in ACTIONS]  # [agent][state, action]
        rewards = random.normal(size=(2, len(self.joint)))
        transitions = random.dirichlet(np.ones(2), size=(2, len(self.joint)))
        weights = self.weights(self.policies)
        mixed = np.einsum("sa,sat->st", weights, transitions)
        self.values = np.linalg.solve(np.eye(2) - GAMMA * mixed, (weights * rewards).sum(1))
        self.action_values = rewards + GAMMA * transitions @ self.values
        self.advantages = self.action_values - self.values[:, None]

    def weights(self, policies):
        """Probabilities of the joint actions, (2, number of them)."""
        columns = [np.prod([p[:, a] for p, a in zip(policies, joint, strict=True)], axis=0) for joint in self.joint]
        return np.stack(columns, axis=1)

    def value_given(self, state, known):
        """Q^{i_1:m}: the value where the agents of `known` do what it says and the others follow their policies."""
        fixed = [
            np.eye(n)[[known[q]] * 2] if q in known else policy
            for q, (n, policy) in enumerate(zip(ACTIONS, self.policies, strict=True))
        ]
        return self.weights(fixed)[state] @ self.action_values[state]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_joint_advantage_is_the_sum_of_advantages_in_turn(seed):
    """Lemma 4 (Zhong et al.), for all orders; each summand has mean zero over its own agent's actions, eq. (5)."""
    game = MarkovGame(seed)
    for order, state in product(permutations(range(3)), range(2)):
        for column, joint in enumerate(game.joint):
            summands, known = [], {}
            for agent in order:
                options = []
                for action in range(ACTIONS[agent]):
                    after = game.value_given(state, {**known, agent: action})
                    options.append(after - game.value_given(state, known))
                assert game.policies[agent][state] @ options == pytest.approx(0.0, abs=1e-12)
                summands.append(options[joint[agent]])
                known[agent] = joint[agent]
            assert sum(summands) == pytest.approx(game.advantages[state, column], abs=1e-12)


class Recording(HAML):
    """An instance of the template that moves policies as it is told and keeps the compound advantages."""

    shift = 0.0

    def mirror(self):
        self.order, self.compounds = [], {}
        return Mirror(NoDrift(), self)

    def maximise(self, objective, learner):
        agent = self.learners.index(learner)
        self.order.append(agent)
        self.compounds[agent] = objective.weights
        with torch.no_grad():
            for parameter in learner.policy.parameters():
                parameter += self.shift * torch.randn(parameter.shape, generator=self.generator)
        return {}


def recorded(shift, seed=0):
    learning = Learning(Recording, "mpe2/simple_spread_v3", agents=3, seed=seed)
    learning.sample()
    algorithm = learning.algorithm
    algorithm.shift = shift
    samples = [algorithm._samples(q) for q in range(3)]
    advantages = [torch.randn(len(samples[0].actions), generator=torch.Generator().manual_seed(q)) for q in range(3)]
    old = algorithm._heads(samples)
    algorithm.improve(samples, old, advantages)
    return algorithm, samples, old, advantages


def test_without_a_change_every_compound_advantage_is_the_advantage():
    algorithm, _, _, advantages = recorded(shift=0.0)
    for agent in range(3):
        assert torch.equal(algorithm.compounds[agent], advantages[agent])


@pytest.mark.parametrize("seed", range(3))
def test_the_compound_advantage_is_the_advantage_times_the_ratios_of_those_before(seed):
    algorithm, samples, old, advantages = recorded(shift=0.5, seed=seed)
    new = algorithm._heads(samples)
    ratios = [(part.log_prob(b) - part.log_prob(a)).exp() for part, a, b in zip(samples, old, new, strict=True)]
    for place, agent in enumerate(algorithm.order):
        expected = advantages[agent]
        for before in algorithm.order[:place]:
            expected = expected * ratios[before]
        torch.testing.assert_close(algorithm.compounds[agent], expected, rtol=1e-5, atol=1e-6)
        assert place == 0 or not torch.allclose(expected, advantages[agent], rtol=0.05)


def test_every_order_of_agents_occurs():
    learning = Learning(Recording, "mpe2/simple_spread_v3", agents=3)
    orders = {tuple(learning.algorithm.update_order()) for _ in range(100)}
    assert orders == set(permutations(range(3)))


def test_the_mean_of_the_compound_estimate_is_the_advantage_in_turn():
    """Proposition 9 (Zhong et al.), eq. (9), in expectation over every joint action of the old policy."""
    game, random = MarkovGame(3), np.random.default_rng(4)
    new = [random.dirichlet(np.ones(n), size=2) for n in ACTIONS]
    for agent, state in product(range(3), range(2)):
        ratios = [np.array([new[q][state, a[q]] / game.policies[q][state, a[q]] for a in game.joint]) for q in range(3)]
        compound = np.prod(ratios[:agent], axis=0) * game.advantages[state]
        estimate = game.weights(game.policies)[state] @ ((ratios[agent] - 1.0) * compound)
        exact = 0.0
        for joint in product(*(range(n) for n in ACTIONS[: agent + 1])):
            known = dict(enumerate(joint))
            before = {q: a for q, a in known.items() if q < agent}
            chance = np.prod([new[q][state, a] for q, a in known.items()])
            exact += chance * (game.value_given(state, known) - game.value_given(state, before))
        assert estimate == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("dead", [False, True])
def test_each_step_of_hatrpo_is_the_kkt_point_of_its_compound_advantage(dead):
    """Eqs. (7) and (8) in float64 against a dense solution, relative error below 1e-5, agent after agent."""
    damping, kl_step, spaces = 1e-6, 1e-5, (Discrete(3), Box(2, -1.0, 1.0))
    settings = {"solver": "cg", "cg_iterations": 2000, "damping": damping, "kl_step": kl_step, "agent_order": "fixed"}
    config = resolve(("test", {**TINY, "algo": "hatrpo", "backtrack_kl": 1.5, "accept_ratio": 0.0, **settings}))
    spec = make_spec(spaces, 3)
    algorithm = HATRPO(spec, (6,), config)
    samples = []
    for q, space in enumerate(spaces):
        alone = make_spec((space,), 3)
        algorithm.policies[q].double().load_state_dict(make_policy(alone, 0, q, config.activation, (4,)).state_dict())
        observations, actions = draw_samples(alone, algorithm.policies[q], 60, seed=q)
        alive = torch.arange(60) % 3 > 0 if dead else torch.ones(60, dtype=torch.bool)
        samples.append(Samples(observations, actions, None, alive, None))
    advantages = [torch.randn(60, generator=torch.Generator().manual_seed(7), dtype=torch.float64)] * 2
    old = algorithm._heads(samples)
    before = [flat_parameters(list(policy.parameters())) for policy in algorithm.policies]

    compound, expected = advantages[0], []
    for q, part in enumerate(samples):
        kept = part.select(part.alive.nonzero().squeeze(1), None)
        policy = algorithm.policies[q]
        jacobian = dense_jacobian(policy, kept.observations, kept.actions)[0]
        hessian = dense_hessian(policy, kept.observations) + damping * torch.eye(len(before[q]), dtype=torch.float64)
        gradient = jacobian.T @ compound[part.alive] / len(kept.actions)
        expected.append(dense_kkt(hessian.numpy(), gradient.numpy(), 0.0, kl_step))
        # The later agents of a copy see what this one's step does to its ratio.
        moved = make_policy(make_spec((spaces[q],), 3), 0, q, config.activation, (4,))
        torch.nn.utils.vector_to_parameters(before[q] + torch.from_numpy(expected[q]), moved.parameters())
        with torch.no_grad():
            log_ratio = part.log_prob(part.head(moved)) - part.log_prob(old[q])
        compound = compound * torch.where(part.alive, log_ratio, 0.0).exp()

    reports = algorithm.improve(samples, old, advantages)
    for q, policy in enumerate(algorithm.policies):
        assert reports[q]["step_fraction"] == 1.0
        step = (flat_parameters(list(policy.parameters())) - before[q]).numpy()
        assert np.linalg.norm(step - expected[q]) < 1e-5 * np.linalg.norm(expected[q])


ALIKE = ("happo", "mappo", "ippo", "jrppo")


def parameters_of(learning):
    return [flat_parameters(list(policy.parameters())) for policy in learning.algorithm.policies]


def test_one_agent_is_updated_alike_by_all_kinds_of_ppo():
    settings = {"agents": 1, "actor_lr": 0.02, "rollout_length": 25, "policy_epochs": 20}
    runs = [Learning(algo, "mpe2/simple_spread_v3", **settings) for algo in ALIKE]
    reports = [run.iterate() for run in runs]
    first = parameters_of(runs[0])[0]
    assert reports[0].agents[0]["ratio_max"] > 1.2, "nothing is clipped"
    for run in runs[1:]:
        torch.testing.assert_close(parameters_of(run)[0], first, rtol=1e-4, atol=1e-6)


def improved(algo, inputs, **settings):
    """The policies, (3, D), that an algorithm makes of the same samples."""
    algorithm = Learning(algo, "mpe2/simple_spread_v3", agents=3, agent_order="fixed", **settings).algorithm
    samples, advantages = inputs
    algorithm.improve(samples, algorithm._heads(samples), advantages)
    return torch.stack([flat_parameters(list(policy.parameters())) for policy in algorithm.policies])


@pytest.fixture(scope="module")
def inputs():
    learning = Learning("mappo", "mpe2/simple_spread_v3", agents=3)
    learning.sample()
    samples = [learning.algorithm._samples(q) for q in range(3)]
    advantage = torch.randn(len(samples[0].actions), generator=torch.Generator().manual_seed(1))
    return samples, [advantage] * 3


def test_the_first_gradient_is_the_same_for_all_kinds_of_ppo(inputs):
    happo, mappo, ippo, jrppo = (improved(algo, inputs, policy_epochs=1, actor_lr=0.05) for algo in ALIKE)
    torch.testing.assert_close(ippo, mappo, rtol=0.0, atol=0.0)
    torch.testing.assert_close(jrppo, mappo, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(happo[0], mappo[0], rtol=0.0, atol=0.0)
    assert not torch.allclose(happo[1], mappo[1], rtol=1e-3, atol=1e-5), "the second agent knows of the first's step"


def test_later_gradients_differ_between_independent_joint_and_compound_ratios(inputs):
    happo, mappo, ippo, jrppo = (improved(algo, inputs, policy_epochs=10, actor_lr=0.05) for algo in ALIKE)
    torch.testing.assert_close(ippo, mappo, rtol=0.0, atol=0.0)
    torch.testing.assert_close(happo[0], mappo[0], rtol=0.0, atol=0.0)
    for other in (happo, mappo):
        assert not torch.allclose(jrppo[0], other[0], rtol=1e-2, atol=1e-4)
    assert not torch.allclose(happo[2], mappo[2], rtol=1e-2, atol=1e-4)


def test_a_dead_agents_ratio_is_not_in_the_compound():
    algorithm, samples, old, advantages = recorded(shift=0.0)
    dead = [replace(part, alive=torch.zeros_like(part.alive)) for part in samples]
    algorithm.shift = 0.5
    algorithm.improve(dead, old, advantages)
    for agent in range(3):
        assert torch.equal(algorithm.compounds[agent], advantages[agent])
