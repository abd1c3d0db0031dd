"""DNA-MARL: what its agents learn from is the team's mean, whatever the links lose; alone each is an actor-critic."""

from collections import deque

import numpy as np
import pytest
import torch
from learning import GAME, TINY, Learning, probabilities

from matrpo.build import build_participant
from matrpo.decentralized.in_process import agree, roll_out
from matrpo.envs.build import build_environment
from matrpo.envs.games import OppositeHalves
from matrpo.networks.gae import generalized_advantages
from matrpo.networks.mlp import flat_parameters
from matrpo.runs.graph_settings import build_graph, resolve_graph_settings
from matrpo.runs.phase_clock import PhaseClock
from matrpo.runs.run_config import run_config
from matrpo.settings.config import resolve

NAVIGATION = {"task": "navigation", "agents": 3, "topology": "complete"}


class Team:
    """All agents of a run in one process, with their environment."""

    def __init__(self, **settings):
        config = resolve(("test", {**TINY, "algo": "dnamarl", **settings}))
        self.config = resolve_graph_settings(run_config(config))
        self.environment = build_environment(self.config)
        graph, spec = build_graph(self.config), self.environment.spec
        everyone = range(spec.num_agents)
        self.participants = [build_participant(q, graph, spec, self.config, PhaseClock()) for q in everyone]
        self.agents = [participant.agent for participant in self.participants]
        self.steps = self.environment.reset()
        self.iteration = 0

    def prepare(self):
        self.iteration += 1
        self.steps = roll_out(self.participants, self.environment, self.steps, self.config.rollout_length)
        for participant, step in zip(self.participants, self.steps, strict=True):
            participant.prepare(step, self.iteration)

    def finish(self):
        return [participant.finish() for participant in self.participants]

    def iterate(self):
        self.prepare()
        agree(self.participants, self.iteration)
        return self.finish()

    def own_targets(self):
        """What each agent brings to the average, (N, M)."""
        return np.concatenate([agent._own_targets for agent in self.agents])

    def targets(self):
        """What each agent ends with, (N, M)."""
        return np.concatenate([agent._targets for agent in self.agents])


def test_after_complete_mixing_targets_are_those_of_the_mean_reward_and_the_mean_value():
    team = Team(**NAVIGATION, admm_iterations=150)
    team.iterate()
    team.prepare()
    agree(team.participants, 2)
    rollouts, values = [agent.rollout for agent in team.agents], [agent._values for agent in team.agents]
    first, config = rollouts[0], team.config
    assert len({rollout._rewards.tobytes() for rollout in rollouts}) > 1, "all agents are paid alike"
    rewards = torch.from_numpy(np.mean([rollout._rewards / rollout._reward_scale for rollout in rollouts], axis=0))
    current = torch.stack([value.current for value in values]).mean(0)
    following = torch.stack([value.following for value in values]).mean(0)
    ends = torch.from_numpy(first._terminated), torch.from_numpy(first._truncated)
    advantages = generalized_advantages(rewards, current, following, *ends, config.gamma, config.gae_lambda)
    expected = (advantages + current).flatten().numpy()
    for found in team.targets():
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(team.own_targets() - expected).max() > 0.1
    assert team.agents[0].finish_update()["advantage_std"] == pytest.approx(
        float((torch.from_numpy(expected) - values[0].current.flatten()).std()), rel=1e-3
    )


def deliver(team, lost):
    """Run the consensus with messages lost; the clock goes on when nothing is in flight."""
    peers, now, sent = [participant.peer for participant in team.participants], 0.0, 0
    for participant in team.participants:
        participant.begin(team.iteration, now)
    while not all(peer.done for peer in peers):
        in_flight = deque((peer.agent, *each) for peer in peers for each in peer.take_outbox())
        while in_flight:
            sender, receiver, message = in_flight.popleft()
            sent += 1
            if not lost(sent, {sender, receiver}):
                peers[receiver].receive(message, now)
                in_flight.extend((receiver, *each) for each in peers[receiver].take_outbox())
        if events := [event for peer in peers if (event := peer.next_event()) is not None]:
            now = max(now, min(events))
            for peer in peers:
                peer.tick(now)


def test_lost_messages_change_no_target():
    team, clean = Team(**NAVIGATION), Team(**NAVIGATION)
    team.prepare()
    deliver(team, lambda number, _: number % 5 == 0)
    clean.prepare()
    agree(clean.participants, 1)
    np.testing.assert_array_equal(team.targets(), clean.targets())
    assert sum(participant.peer.counters.give_ups for participant in team.participants) == 0


def test_a_dead_link_leaves_the_sum_of_the_targets_as_it_was():
    team = Team(**NAVIGATION, admm_iterations=90, link_deadline=5.0)
    team.prepare()
    deliver(team, lambda _, ends: ends == {0, 1})
    own, ended = team.own_targets(), team.targets()
    assert sum(participant.peer.counters.give_ups for participant in team.participants) > 0
    np.testing.assert_allclose(ended.sum(0), own.sum(0), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(ended, np.broadcast_to(own.mean(0), own.shape), atol=0.01 * np.abs(own).max())


def test_with_one_agent_it_is_an_advantage_actor_critic():
    """That of `fdmarl`, which averages the critic of one agent with nobody's."""
    settings = {"agents": 1, "policy_epochs": 2, "policy_batch": 100, "critic_batch": 100, "gae_lambda": 0.9}
    settings |= {"critic_epochs": 2, "huber_delta": 1.0, "value_clip": 0.2, "reward_scaling": True, "topology": "none"}
    settings |= {"entropy_coef": 0.02, "actor_lr": 0.01}
    one, a2c = Team(task="navigation", **settings), Learning("fdmarl", "navigation", **settings)
    (agent,), algorithm = one.agents, a2c.algorithm
    algorithm.policies[0].load_state_dict(agent.policy.state_dict())
    algorithm.critics[0].load_state_dict(agent.critic.state_dict())
    for _ in range(3):
        one.iterate()
        algorithm._rollouts[0] = algorithm._views[0] = agent.rollout
        algorithm._outputs[0][...] = _outputs(algorithm, agent)
        algorithm._last = a2c.steps[0]
        algorithm.update(1)
        for mine, other in ((agent.policy, algorithm.policies[0]), (agent.critic, algorithm.critics[0])):
            own, theirs = (flat_parameters(list(network.parameters())) for network in (mine, other))
            torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-5)


def _outputs(algorithm, agent):
    """The network's outputs that the agent acted by."""
    with torch.no_grad():
        outputs = algorithm.policies[0].network(agent.rollout.observations)
    return outputs.view(*algorithm._outputs[0].shape).numpy()


@pytest.mark.parametrize(("topology", "learns"), [("line", True), ("none", False)])
def test_agents_that_are_paid_nothing_learn_what_the_team_is_paid_for_by_their_links(topology, learns):
    settings = {"num_envs": 256, "rollout_length": 1, "policy_epochs": 5, "policy_batch": 256, "actor_lr": 0.1}
    paid = {"task": "game/opposite-halves", "agents": 4, "reward": "one-agent", "topology": topology}
    team = Team(**GAME, **settings, **paid)
    for _ in range(25):
        team.iterate()
    earned = OppositeHalves().expected_return([probabilities(agent.policy) for agent in team.agents])
    assert (earned > 0.95) if learns else (earned < 0.5)
