"""One agent through an iteration: what it records, the update that it makes, and its saved state."""

import numpy as np
import pytest
import torch

from matrpo.decentralized.agent import Agent
from matrpo.decentralized.shared_samples import SharedSamples
from matrpo.envs.particle.navigation import NavigationEnv
from matrpo.envs.shared import AgentStep, SharedEnvironment
from matrpo.errors import ConfigError
from matrpo.settings.config import resolve

SETTINGS = {"num_envs": 6, "rollout_length": 60, "hidden_sizes": [12, 12], "critic_epochs": 2, "agents": 3}


def make_config(**changes):
    return resolve(("test", {**SETTINGS, **changes}))


class Team:
    """Three agents on one environment; `pull` is zero, so each learns alone."""

    def __init__(self, **changes):
        self.config = make_config(**changes)
        env = NavigationEnv(3, self.config.num_envs, seed=4)
        self.environment = SharedEnvironment(env, self.config.gamma, reward_scaling=True)
        self.agents = [Agent(q, 0.02, env.spec, self.config) for q in range(3)]
        self.steps = self.environment.reset()

    def sample(self):
        for _ in range(self.config.rollout_length):
            actions = [agent.act(step) for agent, step in zip(self.agents, self.steps, strict=True)]
            self.steps = self.environment.step(np.concatenate(actions, axis=1))

    def iterate(self):
        self.sample()
        metrics = []
        for agent, step in zip(self.agents, self.steps, strict=True):
            agent.prepare_update(step, 1)
            agent.step(np.zeros((3, self.config.samples), np.float32), SharedSamples(self.config.samples))
            metrics.append(agent.finish_update())
        return metrics


def test_the_trust_region_shrinks_linearly_to_nothing():
    team = Team(kl_decay=True, kl_step=0.002, steps=4 * 360, solver_tolerance=1e-4)
    assert team.config.iterations == 4
    team.sample()
    agent, step = team.agents[0], team.steps[0]
    for iteration, part in enumerate((0.002, 0.0015, 0.001, 0.0005), start=1):
        agent.prepare_update(step, iteration)
        agent.step(np.zeros((3, 360), np.float32), SharedSamples(360))
        change = agent.update.steps.change()
        products, _ = agent.update.model.fisher(change)
        assert 0.5 * float(change @ (products + team.config.damping * change)) == pytest.approx(part, rel=1e-3)
        assert agent.finish_update()["kl"] <= 1.5 * part


def arrays_of(agent):
    return agent.state_dict()[0]


def assert_equal_states(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


def test_samples_are_the_same_events_for_all_agents():
    team = Team()
    team.sample()
    for agent, step in zip(team.agents, team.steps, strict=True):
        agent._rollout.add_outcome(step)
    first, *others = (agent._rollout for agent in team.agents)
    for other in others:
        assert torch.equal(first.joint_actions, other.joint_actions)
    positions = [rollout.observations[:, 2:4] for rollout in (first, *others)]
    torch.testing.assert_close(first.observations[:, -4:-2], positions[1] - positions[0])


def test_an_update_stays_in_the_trust_region_and_improves_the_surrogate():
    team = Team()
    for metrics in (*team.iterate(), *team.iterate()):
        assert 0.0 < metrics["kl"] <= team.config.backtrack_kl * team.config.kl_step
        assert metrics["step_fraction"] > 0.0
        assert 1 <= metrics["fisher_products"] <= team.config.cg_iterations
    assert team.agents[0].state_dict()[0]["critic.batches"] == 2


def test_a_step_that_never_fits_is_given_up():
    team = Team(backtrack_kl=1e-9, backtrack_limit=2)
    before = [arrays_of(agent) for agent in team.agents]
    for metrics, agent, state in zip(team.iterate(), team.agents, before, strict=True):
        assert (metrics["kl"], metrics["step_fraction"]) == (0.0, 0.0)
        for name, value in arrays_of(agent).items():
            if name.startswith("policy."):
                np.testing.assert_allclose(value, state[name], rtol=0, atol=0)


def test_backtracking_halves_until_the_kl_fits():
    team = Team(backtrack_kl=0.2, backtrack_limit=10)
    for metrics in team.iterate():
        assert metrics["kl"] <= 0.2 * team.config.kl_step
        assert metrics["step_fraction"] in (0.5, 0.25)


@pytest.mark.parametrize("changes", [{}, {"backtrack_kl": 1e-9, "backtrack_limit": 2}], ids=["taken", "given up"])
def test_the_entropy_is_that_of_the_policy_that_acts_from_then_on(changes):
    team = Team(**changes)
    team.sample()
    for number, (agent, step) in enumerate(zip(team.agents, team.steps, strict=True)):
        agent.prepare_update(step, 1)
        agent.step(np.zeros((3, team.config.samples), np.float32), SharedSamples(team.config.samples))
        metrics = agent.finish_update()
        expected = agent.policy.distribution(agent.rollout.observations).entropy()[:, number].mean()
        assert metrics["entropy"] == pytest.approx(expected.item(), rel=1e-6)


def test_a_restored_agent_continues_bit_for_bit():
    original = Team()
    original.iterate()
    restored = Team()
    restored.steps = restored.environment.resume(original.environment.state_dict())
    for old, new in zip(original.agents, restored.agents, strict=True):
        new.load_state_dict(*old.state_dict())
    assert original.iterate() == restored.iterate()
    for old, new in zip(original.agents, restored.agents, strict=True):
        assert_equal_states(arrays_of(old), arrays_of(new))


def test_agents_differ_by_their_id_and_seed_alone():
    first, second, other = Team(), Team(), Team(seed=1)
    assert_equal_states(arrays_of(first.agents[0]), arrays_of(second.agents[0]))
    weight = "policy.network.layers.0.weight"
    assert not np.array_equal(arrays_of(first.agents[0])[weight], arrays_of(first.agents[1])[weight])
    assert not np.array_equal(arrays_of(first.agents[0])[weight], arrays_of(other.agents[0])[weight])


@pytest.mark.parametrize(("changes", "message"), [({"hidden_sizes": [8]}, "does not fit the networks"), ({}, "agent")])
def test_a_foreign_state_is_refused(changes, message):
    team, other = Team(), Team(**changes)
    with pytest.raises(ConfigError, match=message):
        team.agents[0].load_state_dict(*other.agents[0 if changes else 1].state_dict())


def test_steps_need_a_prepared_update():
    with pytest.raises(RuntimeError, match="prepare_update"):
        Team().agents[0].finish_update()


@pytest.mark.parametrize("changes", [{}, {"recurrent_layers": 1, "chunk_length": 10}], ids=["feedforward", "recurrent"])
@pytest.mark.parametrize("parts", [2, 6])
def test_it_acts_in_parts_of_the_environments_as_in_all_at_once(changes, parts):
    """A part may be several steps ahead; the last, of one environment alone, would be rounded otherwise by itself."""
    together, apart = Team(**changes), Team(**changes)
    length, size = together.config.rollout_length, 6 // parts
    for _ in range(2):
        steps, actions = [together.steps], []
        for _ in range(length):
            actions.append([agent.act(step) for agent, step in zip(together.agents, together.steps, strict=True)])
            together.steps = together.environment.step(np.concatenate(actions[-1], axis=1))
            steps.append(together.steps)
        order = np.random.default_rng(0).permutation(np.repeat(np.arange(parts), length))
        for q, agent in enumerate(apart.agents):
            times = [0] * parts
            for part in order.tolist():
                t, first = times[part], part * size
                action = agent.act(part_of(steps[t][q], first, size), first)
                np.testing.assert_array_equal(action, actions[t][q][first : first + size])
                times[part] += 1
        for team in (together, apart):
            for agent, step in zip(team.agents, together.steps, strict=True):
                agent.prepare_update(step, 1)
                agent.step(np.zeros((3, team.config.samples), np.float32), SharedSamples(team.config.samples))
                agent.finish_update()
        for one, other in zip(together.agents, apart.agents, strict=True):
            assert_equal_states(arrays_of(one), arrays_of(other))


def part_of(step, first, size):
    """What the step says of some environments."""
    parts = {
        name: value if name == "reward_scale" or value is None else value[first : first + size]
        for name, value in vars(step).items()
    }
    return AgentStep(**parts)
