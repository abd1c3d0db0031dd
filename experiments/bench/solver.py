"""The recycled solver against conjugate gradient (CG) at every activation: one consensus phase, on the same samples."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matrpo.consensus.peer import Peer
from matrpo.decentralized.agent import Agent
from matrpo.experiments.bench.problem import Problem, train
from matrpo.experiments.bench.products import measure_products
from matrpo.experiments.bench.report import Goal, Report, Row, Say
from matrpo.networks.mlp import flat_parameters, set_flat_parameters
from matrpo.settings.config import resolve, to_dict
from matrpo.topology import CommunicationGraph

_PLAIN = {"kl_step": 0.02, "kl_decay": False, "step_damping": None, "model_epochs": 0, "observe_changes": None}
"""Settings of all runs, whatever is tuned: what agents would take is then the solver's last local step."""


def run(
    agents: Sequence[int], activations: Sequence[int], training: int, changes: Mapping[str, Any], quick: bool, say: Say
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
    config = resolve(("benchmark", {"tensorboard": False, **_PLAIN, **sizes_of_a_test}), ("-o", changes))
    comparisons: list[Row] = []
    products: list[Row] = []
    goals: list[Goal] = []
    for num_agents in agents:
        say(f"N={num_agents}: {training} iterations of training")
        of_size = dataclasses.replace(config, agents=num_agents)
        snapshot = train(of_size, training)[-1]
        problem = Problem(snapshot, of_size)
        products += measure_products(problem.agents[0].update.model, problem.shape(), repeats=3 if quick else 21)
        for k in activations:
            pair = {}
            for solver in ("recycled", "cg"):
                say(f"N={num_agents}, K={k}, {solver}")
                settings = dataclasses.replace(of_size, solver=solver, admm_iterations=k)
                pair[solver] = row = _measure(Problem(snapshot, settings))
                say(", ".join(f"{name} {value}" for name, value in row.items()))
            comparisons += pair.values()
            goals += _goals(f"N={num_agents}, K={k}", pair["recycled"], pair["cg"])
    facts = {**to_dict(config), "agents": list(agents), "admm_iterations": list(activations)}
    facts |= {"training_iterations": training, "solver": ["recycled", "cg"], "processes": 1}
    tables = {"consensus phase of one iteration, all agents in one process": comparisons, "products": products}
    return Report("solver", facts, tables, goals)


def augmented_lagrangian(
    graph: CommunicationGraph,
    advantages: Sequence[Tensor],
    ratios: Sequence[Tensor],
    peers: Sequence[Peer],
    beta: float,
) -> float:
    """The augmented Lagrangian, eq. (21), of duals y_e and consensus variables z_e^q, by its definition, in float64.

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
def _measure(problem: Problem) -> Row:
    """Run a consensus phase and measure its cost, the augmented Lagrangian, the consensus gap and the KL at its end."""
    config, graph = problem.config, problem.graph
    begin = time.process_time()
    problem.agree()
    seconds = time.process_time() - begin
    fisher = sum(agent.update.model.fisher_products for agent in problem.agents)
    jacobian = sum(agent.update.model.jacobian_products for agent in problem.agents)
    ratios = problem.ratios()
    return {
        "agents": graph.num_agents,
        "K": config.admm_iterations,
        "solver": config.solver,
        "fisher_products": fisher,
        "fisher_per_agent": fisher / graph.num_agents,
        "jacobian_products": jacobian,
        "cpu_seconds": seconds,
        "augmented_lagrangian": augmented_lagrangian(graph, problem.advantages, ratios, problem.peers, config.beta),
        "relative_gap": _relative_gap(graph, ratios),
        "kl_over_limit": _mean_kl(problem.agents) / config.kl_step,
    }


def _relative_gap(graph: CommunicationGraph, ratios: Sequence[Tensor]) -> float:
    """Root mean square of u^i - u^j over all links, relative to that of u over their ends."""
    gaps = sum(float((ratios[i] - ratios[j]).square().mean()) for i, j in graph.links)
    sizes = sum(float(ratios[q].square().mean()) for link in graph.links for q in link)
    return float(np.sqrt(gaps / (0.5 * sizes))) if sizes else 0.0


def _mean_kl(agents: Sequence[Agent]) -> float:
    """The true KL of the full steps, before the line search, averaged over agents."""
    total = 0.0
    for agent in agents:
        policy, rollout = agent.policy, agent.rollout
        parameters = list(policy.parameters())
        samples = (rollout.observations, rollout.action_masks, rollout.sequences)
        old_parameters, old = flat_parameters(parameters), policy.distribution(*samples)
        set_flat_parameters(parameters, old_parameters + agent.update.steps.change())
        total += float(old.kl_to(policy.distribution(*samples)).sum(1).mean())
        set_flat_parameters(parameters, old_parameters)
    return total / len(agents)


def _goals(where: str, recycled: Row, cg: Row) -> list[Goal]:
    def ratio(name: str, above: Row, below: Row) -> float:
        return float(above[name]) / float(below[name])

    lagrangian = float(recycled["augmented_lagrangian"])
    return [
        Goal(f"{where}: Fisher products, recycled / CG", ratio("fisher_products", recycled, cg), 1 / 20, False),
        Goal(f"{where}: CPU seconds, CG / recycled", ratio("cpu_seconds", cg, recycled), 10.0),
        Goal(f"{where}: augmented Lagrangian", lagrangian, float(cg["augmented_lagrangian"]), False),
    ]
