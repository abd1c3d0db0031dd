"""Agents with a memory: they learn what others cannot, and no memory is lost, kept too long, or made up."""

import numpy as np
import pytest
import torch
from marks import slow
from recall import RecallEnv

import matrpo.envs.build
from matrpo.decentralized.agent import Agent
from matrpo.decentralized.shared_samples import SharedSamples
from matrpo.envs.shared import SharedEnvironment
from matrpo.errors import ConfigError
from matrpo.evaluation import evaluate
from matrpo.networks.joint_policy import JointPolicy
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings.config import resolve
from matrpo.training import InProcessTraining

SETTINGS = {
    "agents": 2,
    "topology": "line",
    "num_envs": 40,
    "rollout_length": 35,
    "chunk_length": 7,
    "hidden_sizes": [16],
    "recurrent_layers": 1,
    "kl_step": 0.05,
    "steps": 10 * 1400,
    "tensorboard": False,
}
SHORT = {"num_envs": 4, "steps": 4 * 140, "checkpoint_every": 1}


@pytest.fixture(autouse=True)
def recall(monkeypatch):
    """Every task is the recall task."""
    monkeypatch.setattr(
        matrpo.envs.build,
        "make_env",
        lambda task, agents, num_envs, seed, *_: RecallEnv(num_envs, seed),  # noqa: ARG005
    )


def create(path, **changes):
    return RunDirectory.create(path, resolve(("test", {**SETTINGS, **changes})), {})


def train(run, start=0, stop_after=None):
    training = InProcessTraining(run, start)
    training.run(lambda: training.iteration == stop_after, lambda _: None)
    return training


def arrays_at(run, iteration):
    return [process.load_checkpoint(iteration)[0] for process in run.processes().values()]


def assert_same_states(left, right):
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("layers", [slow(1), 2])
def test_a_memory_learns_to_recall(tmp_path, layers):
    run = create(tmp_path / "run", recurrent_layers=layers, steps=7 * 1400, admm_iterations=12, critic_epochs=2)
    train(run)
    returns = [line["team_return_mean"] for line in run.env.read_metrics()]
    assert returns[0] < 1.2
    assert min(returns[-2:]) > 1.9
    result = evaluate(run, episodes=250)
    assert result.return_mean == 2.0


def test_without_a_memory_recall_stays_at_chance(tmp_path):
    run = create(tmp_path / "run", recurrent_layers=0)
    train(run)
    assert max(line["team_return_mean"] for line in run.env.read_metrics()) < 1.2
    assert evaluate(run, episodes=250).return_mean < 1.2


@pytest.fixture
def finished(tmp_path, recall):  # noqa: ARG001
    run = create(tmp_path / "finished", **SHORT)
    train(run)
    return run


@pytest.mark.parametrize("interrupted_after", [2, *map(slow, [1, 3])])
def test_a_resumed_run_equals_the_uninterrupted_one(finished, tmp_path, interrupted_after):
    run = create(tmp_path / "interrupted", **SHORT)
    train(run, stop_after=interrupted_after)
    assert run.latest_common_iteration() == interrupted_after
    run.rewind(interrupted_after)
    train(run, interrupted_after)
    assert_same_states(arrays_at(finished, 4), arrays_at(run, 4))


def test_a_checkpoint_holds_the_memory_of_the_episodes_that_go_on(finished):
    """After 105 steps an episode of 3 steps has just ended, and one of 4 has not."""
    arrays, _ = finished.agent(0).load_checkpoint(3)
    for name in ("memory.policy", "memory.critic"):
        assert arrays[name].shape == (4, 16)
        assert (np.abs(arrays[name]).max(axis=1) > 0).tolist() == [False, True, False, True]


def test_an_agent_whose_checkpoint_is_older_remembers_nothing_of_its_time(finished):
    finished.rewind(3)
    for path in finished.agent(1).path.glob("checkpoint-000003.*"):
        path.unlink()
    assert finished.agent(1).load_checkpoint(2)[0]["memory.policy"].any()
    training = InProcessTraining(finished, 3)
    assert [bool(agent._actor.state.any()) for agent in training.agents] == [True, False]
    assert [bool(agent._critic_state.any()) for agent in training.agents] == [True, False]


def test_episodes_that_begin_anew_are_not_taken_for_those_of_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(RecallEnv, "state_dict", lambda _: None)
    run = create(tmp_path / "run", **SHORT)
    train(run, stop_after=2)
    training = InProcessTraining(run, 2)
    assert training.agents[0]._actor.state.any()
    training.iterate()
    assert training.agents[0]._rollout.sequences.starts[0].all()


class Team:
    """Two agents on the recall task; `log_probs` is what each thought its own actions' chances were as it acted."""

    def __init__(self, monkeypatch, **changes):
        self.config = resolve(("test", {**SETTINGS, **changes}))
        env = RecallEnv(self.config.num_envs, seed=4)
        self.environment = SharedEnvironment(env, self.config.gamma, reward_scaling=True)
        self.agents = [Agent(q, 0.01, env.spec, self.config) for q in range(2)]
        self.steps = self.environment.reset()
        self.log_probs = []
        own_head_of = JointPolicy.own_head_of

        def recorded(policy, *arguments):
            block = own_head_of(policy, *arguments)
            self.log_probs.append(block.log_probs[:, 0])
            return block

        monkeypatch.setattr(JointPolicy, "own_head_of", recorded)

    def sample(self, steps):
        for _ in range(steps):
            actions = [agent.act(step) for agent, step in zip(self.agents, self.steps, strict=True)]
            self.steps = self.environment.step(np.concatenate(actions, axis=1))

    def iterate(self):
        self.sample(self.config.rollout_length)
        for agent, step in zip(self.agents, self.steps, strict=True):
            agent.prepare_update(step, 1)
            agent.step(np.zeros((2, self.config.samples), np.float32), SharedSamples(self.config.samples))
            agent.finish_update()


def test_the_chunks_of_a_rollout_are_what_the_agent_acted_by(monkeypatch):
    team = Team(monkeypatch)
    team.iterate()
    team.log_probs.clear()
    team.sample(team.config.rollout_length)
    for q, agent in enumerate(team.agents):
        rollout = agent._rollout
        acted = torch.cat(team.log_probs[q : 2 * team.config.rollout_length : 2])
        chunked = agent.policy.own_head_of(agent.policy.network(rollout.observations, rollout.sequences)).log_probs[
            :, 0
        ]
        torch.testing.assert_close(chunked, acted, rtol=0.0, atol=1e-6)
        assert float(acted.std(0).max()) > 1e-3


def test_a_discarded_rollout_takes_what_was_remembered_along(monkeypatch):
    team, fresh = Team(monkeypatch), Team(monkeypatch)
    team.iterate()
    team.sample(7)
    for q, agent in enumerate(team.agents):
        assert agent._actor.state.any()
        assert agent._critic_state.any()
        agent.discard_rollout()
        arrays, meta = agent.state_dict()
        assert not arrays["memory.policy"].any()
        assert not arrays["memory.critic"].any()
        fresh.agents[q].load_state_dict(arrays, meta)
    fresh.environment.resume(team.environment.state_dict())
    fresh.steps = team.steps
    team.iterate()
    fresh.iterate()
    assert_same_states([agent.state_dict()[0] for agent in team.agents], [a.state_dict()[0] for a in fresh.agents])


@pytest.mark.parametrize("changes", [{"recurrent_layers": 0}, {"recurrent_layers": 2}, {"num_envs": 8}])
def test_a_checkpoint_with_another_memory_is_refused(finished, changes):
    config = resolve(("test", {**SETTINGS, **SHORT, **changes}))
    agent = Agent(0, 0.01, RecallEnv.spec, config)
    with pytest.raises(ConfigError, match="does not fit the networks"):
        agent.load_state_dict(*finished.agent(0).load_checkpoint(2))
