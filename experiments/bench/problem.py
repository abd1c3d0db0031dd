"""One iteration's consensus as a problem of its own, for benchmarks: trained agents, their samples and advantages."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from matrpo.consensus.bus import run_in_process
from matrpo.consensus.peer import Peer, Step
from matrpo.decentralized.shared_samples import on_shared_samples
from matrpo.experiments.bench.products import Shape
from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.linearized_policy import CHUNK, LinearizedPolicy
from matrpo.runs.run_directory import RunDirectory
from matrpo.sampling.acting import Actor
from matrpo.sampling.rollout import Rollout
from matrpo.settings.config import Config, DecentralizedConfig
from matrpo.topology import CommunicationGraph
from matrpo.training import InProcessTraining
from matrpo.trust_region.solvers import Solver, make_solver
from matrpo.trust_region.step_rule import make_step_rule


@dataclass(frozen=True)
class Problem:
    """What the agents know when the consensus phase of an iteration begins.

    Attributes:
        config: the run's settings.
        graph: who talks to whom.
        policies: the agents' policies.
        rollouts: their samples.
        advantages: A^q of each agent, (M,).
    """

    config: DecentralizedConfig
    graph: CommunicationGraph
    policies: Sequence[JointPolicy]
    rollouts: Sequence[Rollout]
    advantages: Sequence[Tensor]

    def linearize(self, agent: int) -> LinearizedPolicy:
        """The first and second order model of an agent's policy, with its counters at 0."""
        rollout = self.rollouts[agent]
        policy = self.policies[agent]
        return LinearizedPolicy(
            policy, rollout.observations, rollout.joint_actions, rollout.action_masks, rollout.sequences
        )

    def shape(self) -> Shape:
        """The shape of the first agent's network as it is linearised."""
        config, rollout = self.config, self.rollouts[0]
        rows, steps = CHUNK, 1
        if rollout.sequences:
            rows, steps = rollout.sequences.split(CHUNK)[0][0].stop, config.chunk_length
        outputs = self.policies[0].groups[-1].outputs.stop
        sizes = (rollout.observations.shape[1], *config.hidden_sizes, outputs)
        return Shape(sizes, config.recurrent_layers, min(rows, config.samples), steps)


def make_problem(config: Config, training: int) -> Problem:
    """Train for some iterations, then sample once more and estimate advantages as `Agent.prepare_update` does."""
    return sample_problem(train(config, training), torch.Generator().manual_seed(config.seed))


def train(config: Config, iterations: int) -> InProcessTraining:
    """Agents, critics and an environment after some iterations, whose run is not kept."""
    with tempfile.TemporaryDirectory(prefix="matrpo-bench-") as folder:
        trained = InProcessTraining(RunDirectory.create(Path(folder) / "run", config, {}))
        for _ in range(iterations):
            trained.iterate()
    return trained


def sample_problem(trained: InProcessTraining, generator: torch.Generator) -> Problem:
    """Sample an iteration's steps, fit the critics and estimate advantages as `Agent.prepare_update` does."""
    config, spec, environment = trained.config, trained.environment.spec, trained.environment
    rollouts = [
        Rollout(q, spec, config, config, agent.policy.network.state_size) for q, agent in enumerate(trained.agents)
    ]
    actors = [Actor(agent.policy, config.num_envs) for agent in trained.agents]
    steps = environment.observe()
    for _ in range(config.rollout_length):
        actions = []
        for actor, rollout, step in zip(actors, rollouts, steps, strict=True):
            rollout.add_observation(step, actor.state)
            actions.append(actor.act(step.seen, generator, deterministic=False))
        steps = environment.step(np.concatenate(actions, axis=1))
        for rollout, step in zip(rollouts, steps, strict=True):
            rollout.add_outcome(step)
    advantages = []
    for agent, rollout in zip(trained.agents, rollouts, strict=True):
        values = rollout.values(agent.critic, state := agent.critic.initial_state(config.num_envs))
        _, targets = rollout.advantages(values, config.gamma, config.gae_lambda)
        sequences = rollout.critic_sequences(values)
        agent.critic.fit(rollout.observations, targets, config.critic_epochs, config.critic_batch, sequences)
        values = rollout.values(agent.critic, state)
        estimate, _ = rollout.advantages(values, config.gamma, config.gae_lambda)
        advantages.append(estimate - estimate.mean())
    return Problem(config, trained.graph, [agent.policy for agent in trained.agents], rollouts, advantages)


class Consensus:
    """The consensus phase of one iteration, all agents in one process.

    Args:
        problem: what the agents know.
        config: the settings of consensus and solver.

    Attributes:
        models, solvers, peers: every agent's.
    """

    def __init__(self, problem: Problem, config: DecentralizedConfig) -> None:
        self._problem = problem
        graph = problem.graph
        everyone = range(graph.num_agents)
        self.models = [problem.linearize(q) for q in everyone]
        self.solvers = [
            make_solver(self.models[q], make_step_rule(len(graph.links_of(q)) * config.beta, config), config)
            for q in everyone
        ]
        self.peers = [Peer(q, graph, config.seed, config, config) for q in everyone]

    def run(self, watched: Callable[[Step], Step] = lambda step: step) -> None:
        """Activate all links.

        Args:
            watched: wraps every agent's local step.
        """
        problem = self._problem
        config = problem.config
        shape = (problem.graph.num_agents, config.shared_samples)
        for peer, solver, advantages in zip(self.peers, self.solvers, problem.advantages, strict=True):
            step = on_shared_samples(watched(_local_step(solver, advantages)), config, iteration=1)
            peer.begin(1, step, shape, now=0.0)
        run_in_process(self.peers)

    def ratios(self) -> list[Tensor]:
        """u^q of every agent's last step, (N, M) each."""
        return [model.jvp(solver.x) for model, solver in zip(self.models, self.solvers, strict=True)]


def _local_step(solver: Solver, advantages: Tensor) -> Step:
    def step(pull: np.ndarray) -> np.ndarray:
        ratios: np.ndarray = solver.solve(advantages + torch.from_numpy(pull)).numpy()
        return ratios

    return step
