"""The recycled solver against CG at every activation: the consensus phase of one iteration, on the same samples."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matrpo.agent import make_rollout, make_solver, make_step_rule
from matrpo.build import build_peer
from matrpo.config import Config, resolve, to_dict
from matrpo.consensus.bus import run_in_process
from matrpo.consensus.peer import Peer, Step
from matrpo.experiments.bench_products import Shape, measure_products
from matrpo.experiments.bench_report import Goal, Report, Row, Say
from matrpo.graph_settings import agent_penalty, link_penalty
from matrpo.networks import flat_parameters, set_flat_parameters
from matrpo.policy import CHUNK, Actor, JointPolicy, LinearizedPolicy
from matrpo.rollout import Rollout
from matrpo.run_directory import RunDirectory
from matrpo.topology import CommunicationGraph
from matrpo.training import InProcessTraining
from matrpo.trust_region import Solver


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

    config: Config
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


def run(
    agents: Sequence[int],
    activations: Sequence[int],
    training: int,
    changes: Mapping[str, Any],
    quick: bool,
    say: Say,
) -> Report:
    """Compare the solvers.

    Args:
        agents: the numbers of agents N, each on a ring.
        activations: the numbers of activations K.
        training: iterations of training before the one that is measured, so that its advantages mean something.
        changes: settings that are not the default.
        quick: tiny sizes.
        say: told about the progress.

    Raises:
        ConfigError: a setting is unknown or has a bad value.
    """
    torch.set_num_threads(1)
    sizes_of_a_test = {"num_envs": 4, "rollout_length": 50, "hidden_sizes": (16, 16)} if quick else {}
    config = resolve(("benchmark", {"tensorboard": False, **sizes_of_a_test}), ("-o", changes))
    comparisons: list[Row] = []
    products: list[Row] = []
    goals: list[Goal] = []
    for num_agents in agents:
        say(f"N={num_agents}: {training} iterations of training")
        problem = make_problem(dataclasses.replace(config, agents=num_agents), training)
        model = problem.linearize(0)
        products += measure_products(model, problem.shape(), repeats=3 if quick else 21)
        for k in activations:
            pair = {}
            for solver in ("recycled", "cg"):
                pair[solver] = row = _measure(problem, solver, k, say)
                say(", ".join(f"{name} {value}" for name, value in row.items()))
            comparisons += pair.values()
            goals += _goals(f"N={num_agents}, K={k}", pair["recycled"], pair["cg"])
    settings = {**to_dict(config), "agents": list(agents), "admm_iterations": list(activations)}
    settings |= {"training_iterations": training, "solver": ["recycled", "cg"], "processes": 1}
    tables = {"consensus phase of one iteration, all agents in one process": comparisons, "products": products}
    return Report("solver", settings, tables, goals)


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
    rollouts = [make_rollout(agent.policy, spec, config) for agent in trained.agents]
    actors = [Actor(agent.policy, config.num_envs) for agent in trained.agents]
    steps = environment.observe()
    for _ in range(config.rollout_length):
        actions = []
        for actor, rollout, step in zip(actors, rollouts, steps, strict=True):
            rollout.add_observation(step, actor.state)
            actions.append(actor.act(step.observation, step.action_mask, step.ended, generator, deterministic=False))
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


def augmented_lagrangian(
    graph: CommunicationGraph,
    advantages: Sequence[Tensor],
    ratios: Sequence[Tensor],
    peers: Sequence[Peer],
    beta: float,
) -> float:
    """Eq. (21), by its definition, in float64.

    Args:
        graph: links e with their signs C_e^q.
        advantages: A^q, (M,).
        ratios: [J^{qn} x^q]_n, (N, M).
        peers: hold y_e and, as C_e^q z_e^q = ubar_e, z_e^q.
        beta: penalty.
    """
    samples = len(advantages[0])
    pairs = zip(advantages, ratios, strict=True)
    total = -sum(float(a.double() @ u.double().sum(0)) for a, u in pairs)
    for number, link in enumerate(graph.links):
        for q in link:
            end = peers[q].links[number]
            z, y = end.sign * end.tip.ubar.astype(np.float64), end.tip.y.astype(np.float64)
            gap = end.sign * ratios[q].double().numpy() - z
            total += float((y * gap).sum() + 0.5 * beta * np.square(gap).sum())
    return total / samples


@torch.no_grad()
def _measure(problem: Problem, solver_name: str, activations: int, say: Say) -> Row:
    """The consensus phase with one solver: its cost and where it ends."""
    config = dataclasses.replace(problem.config, solver=solver_name, admm_iterations=activations)
    graph = problem.graph
    everyone = range(graph.num_agents)
    models = [problem.linearize(q) for q in everyone]
    solvers = [
        make_solver(models[q], make_step_rule(agent_penalty(q, graph, config), config), config) for q in everyone
    ]
    peers = [build_peer(q, graph, config) for q in everyone]
    progress = _Progress(f"N={graph.num_agents}, K={activations}, {solver_name}", 2 * activations, say)
    begin = time.process_time()
    for q, peer in enumerate(peers):
        step = progress.counted(_local_step(solvers[q], problem.advantages[q]))
        peer.begin(1, step, (graph.num_agents, config.samples), now=0.0)
    run_in_process(peers)
    seconds = time.process_time() - begin
    fisher = sum(model.fisher_products for model in models)
    jacobian = sum(model.jacobian_products for model in models)
    ratios = [model.jvp(solver.x) for model, solver in zip(models, solvers, strict=True)]
    return {
        "agents": graph.num_agents,
        "K": activations,
        "solver": solver_name,
        "fisher_products": fisher,
        "fisher_per_agent": fisher / graph.num_agents,
        "jacobian_products": jacobian,
        "cpu_seconds": seconds,
        "augmented_lagrangian": augmented_lagrangian(
            graph, problem.advantages, ratios, peers, link_penalty(graph, config)
        ),
        "relative_gap": _relative_gap(graph, ratios),
        "kl_over_limit": _mean_kl(problem, solvers) / config.kl_step,
    }


def _local_step(solver: Solver, advantages: Tensor) -> Step:
    def step(pull: np.ndarray) -> np.ndarray:
        ratios: np.ndarray = solver.solve(advantages + torch.from_numpy(pull)).numpy()
        return ratios

    return step


def _relative_gap(graph: CommunicationGraph, ratios: Sequence[Tensor]) -> float:
    """Root mean square of u^i - u^j over all links, relative to that of u over their ends."""
    gaps = sum(float((ratios[i] - ratios[j]).square().mean()) for i, j in graph.links)
    sizes = sum(float(ratios[q].square().mean()) for link in graph.links for q in link)
    return float(np.sqrt(gaps / (0.5 * sizes))) if sizes else 0.0


def _mean_kl(problem: Problem, solvers: Sequence[Solver]) -> float:
    """The true KL of the whole steps, before any backtracking, averaged over agents."""
    total = 0.0
    for policy, rollout, solver in zip(problem.policies, problem.rollouts, solvers, strict=True):
        parameters = list(policy.parameters())
        samples = (rollout.observations, rollout.action_masks, rollout.sequences)
        old_parameters, old = flat_parameters(parameters), policy.distribution(*samples)
        set_flat_parameters(parameters, old_parameters + solver.x)
        total += float(old.kl_to(policy.distribution(*samples)).sum(1).mean())
        set_flat_parameters(parameters, old_parameters)
    return total / len(solvers)


def _goals(where: str, recycled: Row, cg: Row) -> list[Goal]:
    def ratio(name: str, above: Row, below: Row) -> float:
        return float(above[name]) / float(below[name])

    lagrangian = float(recycled["augmented_lagrangian"])
    return [
        Goal(f"{where}: Fisher products, recycled / CG", ratio("fisher_products", recycled, cg), 1 / 20, False),
        Goal(f"{where}: CPU seconds, CG / recycled", ratio("cpu_seconds", cg, recycled), 10.0),
        Goal(f"{where}: augmented Lagrangian", lagrangian, float(cg["augmented_lagrangian"]), False),
    ]


class _Progress:
    """Says every tenth part of the local steps of a consensus phase."""

    def __init__(self, name: str, steps: int, say: Say) -> None:
        self._name, self._steps, self._say = name, steps, say
        self._done = 0

    def counted(self, step: Callable[[np.ndarray], np.ndarray]) -> Step:
        """The same step, counted."""

        def counted_step(pull: np.ndarray) -> np.ndarray:
            self._done += 1
            if self._done % max(1, self._steps // 10) == 0:
                self._say(f"{self._name}: {100 * self._done // self._steps}%")
            return step(pull)

        return counted_step
