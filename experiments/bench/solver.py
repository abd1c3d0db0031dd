"""The recycled solver against CG at every activation: the consensus phase of one iteration, on the same samples."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matrpo.consensus.peer import Peer, Step
from matrpo.experiments.bench.problem import Consensus, Problem, make_problem
from matrpo.experiments.bench.products import measure_products
from matrpo.experiments.bench.report import Goal, Report, Row, Say
from matrpo.networks.mlp import flat_parameters, set_flat_parameters
from matrpo.settings.config import resolve, to_dict
from matrpo.topology import CommunicationGraph
from matrpo.trust_region.solvers import Solver


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
    consensus = Consensus(problem, config)
    progress = _Progress(f"N={graph.num_agents}, K={activations}, {solver_name}", 2 * activations, say)
    begin = time.process_time()
    consensus.run(progress.counted)
    seconds = time.process_time() - begin
    fisher = sum(model.fisher_products for model in consensus.models)
    jacobian = sum(model.jacobian_products for model in consensus.models)
    ratios = consensus.ratios()
    return {
        "agents": graph.num_agents,
        "K": activations,
        "solver": solver_name,
        "fisher_products": fisher,
        "fisher_per_agent": fisher / graph.num_agents,
        "jacobian_products": jacobian,
        "cpu_seconds": seconds,
        "augmented_lagrangian": augmented_lagrangian(graph, problem.advantages, ratios, consensus.peers, config.beta),
        "relative_gap": _relative_gap(graph, ratios),
        "kl_over_limit": _mean_kl(problem, consensus.solvers) / config.kl_step,
    }


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
