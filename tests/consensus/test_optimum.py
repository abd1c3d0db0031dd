"""Where the consensus ends: at the optimum of the consensus problem (15), and with it TRPO's step (Theorem 1).

The instances are ones on which the paper's assumptions hold exactly. Each agent sees an invertible linear image of the
same one-hot state, so its observation is sufficient (Definition 1); policies are linear and uniform; every state
and joint action is sampled once, so that the mean of J^T J over the samples is H, as (46) has it for M -> infinity.
"""

from __future__ import annotations

from itertools import product

import cvxpy as cp
import numpy as np
import pytest
import torch
from marks import slow

from matrpo.consensus import admm
from matrpo.decentralized.local_steps import make_local_steps
from matrpo.decentralized.shared_samples import SharedSamples
from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.linearized_policy import LinearizedPolicy
from matrpo.runs.graph_settings import RESIDUAL
from matrpo.settings.config import resolve
from matrpo.settings.sections import NetworkSettings, TrustRegionSettings
from matrpo.spaces import Discrete, TaskSpec
from matrpo.topology.gossip import activations_to_average, relaxation
from matrpo.topology.graph import CommunicationGraph, make_graph
from matrpo.topology.schedule import matching_sequence, seeded_sequence
from matrpo.trust_region.preconditioner import KroneckerPreconditioner
from matrpo.trust_region.solvers import ConjugateGradientSolver, RecycledSolver, conjugate_gradients
from matrpo.trust_region.step_rule import StepRule

ACTIONS = (2, 3, 2)
STATES = 4
KL_STEP = 0.002
BETA = 0.5


class Problem:
    """Agents' linear models of three actors, their dense J and H, and advantages of which each agent has its own."""

    def __init__(self, seed: int, agents: int = 3, alike: bool = False) -> None:
        rng = np.random.default_rng(seed)
        samples = np.array(list(product(range(STATES), *map(range, ACTIONS))), dtype=np.float64)
        states = np.eye(STATES)[samples[:, 0].astype(int)]
        joint_actions = torch.from_numpy(samples[:, 1:])
        spec = TaskSpec("test", ("a", "b", "c"), (STATES,) * 3, tuple(Discrete(n) for n in ACTIONS))
        self.models, self.advantages = [], []
        for agent in range(agents):
            generator = torch.Generator().manual_seed(seed)
            policy = JointPolicy(agent % 3, spec, NetworkSettings(hidden_sizes=()), generator).double()
            with torch.no_grad():
                for parameter in policy.parameters():
                    parameter.zero_()
            seen = states if alike else states @ (np.eye(STATES) + 0.3 * rng.standard_normal((STATES, STATES)))
            self.models.append(LinearizedPolicy(policy, torch.from_numpy(seen), joint_actions))
            advantage = rng.standard_normal(len(samples))
            self.advantages.append(advantage - advantage.mean())
        dimension = self.models[0].parameters.numel()
        basis = torch.eye(dimension, dtype=torch.float64)
        self.jacobians = [torch.stack([m.jvp(e) for e in basis], dim=-1).numpy() for m in self.models]
        self.hessians = [torch.stack([m.fisher(e)[0] for e in basis], dim=-1).numpy() for m in self.models]
        self.shape = self.jacobians[0].shape[:2]

    def solver(self, agent: int, graph: CommunicationGraph, kind: str) -> RecycledSolver | ConjugateGradientSolver:
        rule = StepRule(KL_STEP, len(graph.links_of(agent)) * BETA)
        if kind == "cg":
            return ConjugateGradientSolver(self.models[agent], rule, TrustRegionSettings(damping=0.0, cg_iterations=60))
        return RecycledSolver(
            self.models[agent],
            rule,
            KroneckerPreconditioner(self.models[agent].kronecker_factors(), 0.0),
            TrustRegionSettings(
                damping=0.0, cg_iterations=30, solver_tolerance=1e-9, solver_extension=10, solver_check_every=1
            ),
        )

    def run_admm(self, graph: CommunicationGraph, activations: int, kind: str) -> list[np.ndarray]:
        """Algorithm 1, serially, in float64. Returns each agent's x."""
        solvers = [self.solver(q, graph, kind) for q in range(3)]
        states = [admm.initial_state(self.shape, np.float64) for _ in graph.links]
        for k, link in enumerate(seeded_sequence(len(graph.links), activations, run_seed=0, iteration=0), start=1):
            i, j = graph.links[link]
            u_i, u_j = (self._local_step(q, graph, solvers[q], states) for q in (i, j))
            states[link] = admm.commit(states[link], k, u_i, u_j, +1, BETA)
        return [solver.x.numpy() for solver in solvers]

    def run_averaging(self, graph: CommunicationGraph, activations: int) -> list[np.ndarray]:
        """Averaging of natural gradients, serially, in float64. Returns each agent's x."""
        settings = {"consensus": "averaging", "damping": 0.0, "step_damping": None, "cg_iterations": 60, "solver": "cg"}
        config, rule, shared = resolve(("test", settings)), StepRule(KL_STEP, 0.0), SharedSamples(self.shape[1])
        beta = relaxation(graph, "matchings")
        agents = [
            make_local_steps(model, rule, torch.from_numpy(advantages), config)
            for model, advantages in zip(self.models, self.advantages, strict=True)
        ]
        states = [admm.initial_state(self.shape, np.float64) for _ in graph.links]

        def step(q: int) -> np.ndarray:
            links = graph.links_of(q)
            term = admm.averaging_term([states[e] for e in links], [graph.sign(e, q) for e in links])
            return agents[q].step(term, shared)

        for k, link in enumerate(matching_sequence(graph, activations, run_seed=0, iteration=0), start=1):
            i, j = graph.links[link]
            states[link] = admm.commit(states[link], k, step(i), step(j), +1, beta)
        for q in range(graph.num_agents):
            step(q)
        return [agent.change().numpy() for agent in agents]

    def _local_step(self, agent, graph, solver, states):
        links = graph.links_of(agent)
        pull = admm.consensus_term([states[e] for e in links], [graph.sign(e, agent) for e in links], BETA)
        return solver.solve(torch.from_numpy(self.advantages[agent] + pull)).numpy()


def solve_consensus_problem(problem: Problem) -> tuple[list[np.ndarray], float]:
    """Problem (15) by an interior-point solver: each agent's x and the optimal objective, to be maximised."""
    samples = problem.shape[1]
    x = [cp.Variable(h.shape[0]) for h in problem.hessians]
    flat = [j.reshape(-1, j.shape[-1]) for j in problem.jacobians]
    objective = sum(
        np.tile(a, len(ACTIONS)) @ (j @ v) / samples for a, j, v in zip(problem.advantages, flat, x, strict=True)
    )
    constraints = []
    for i, j in ((0, 1), (1, 2)):
        _, values, vectors = np.linalg.svd(np.hstack([flat[i], -flat[j]]), full_matrices=False)
        independent = vectors[values > 1e-9 * values[0]]
        constraints.append(independent @ cp.hstack([x[i], x[j]]) == 0)
    for h, v in zip(problem.hessians, x, strict=True):
        values, vectors = np.linalg.eigh(h)
        root = np.sqrt(values.clip(0.0))[:, None] * vectors.T
        constraints.append(0.5 * cp.sum_squares(root @ v) <= KL_STEP)
    best = cp.Problem(cp.Maximize(objective), constraints)
    best.solve(solver=cp.CLARABEL)
    assert best.status == "optimal"
    return [v.value for v in x], float(best.value)


def surrogate(problem: Problem, agent: int, u: np.ndarray) -> float:
    return float((problem.advantages[agent] * u.sum(0)).mean())


@pytest.mark.parametrize(
    ("kind", "topology"),
    [("recycled", "ring"), ("recycled", "line"), slow("cg", "line")],
)
def test_admm_reaches_the_optimum_of_the_consensus_problem(topology, kind):
    problem = Problem(seed=1)
    graph = make_graph(topology, 3, 0)
    x = problem.run_admm(graph, activations=1500, kind=kind)
    u = [j @ v for j, v in zip(problem.jacobians, x, strict=True)]
    best_x, best_value = solve_consensus_problem(problem)
    best_u = problem.jacobians[0] @ best_x[0]
    for own in u:
        assert np.linalg.norm(own - best_u) / np.linalg.norm(best_u) < 1e-4
    value = sum(surrogate(problem, q, u[q]) for q in range(3))
    assert value == pytest.approx(best_value, rel=1e-4)
    for v, h in zip(x, problem.hessians, strict=True):
        assert 0.5 * v @ h @ v <= KL_STEP * (1 + 1e-9)


@pytest.mark.parametrize("topology", ["ring", "line"])
def test_averaging_reaches_the_optimum_of_the_consensus_problem(topology):
    problem = Problem(seed=1)
    x = problem.run_averaging(make_graph(topology, 3, 0), activations=200)
    u = [j @ v for j, v in zip(problem.jacobians, x, strict=True)]
    best_x, best_value = solve_consensus_problem(problem)
    best_u = problem.jacobians[0] @ best_x[0]
    for own in u:
        assert np.linalg.norm(own - best_u) / np.linalg.norm(best_u) < 1e-6
    assert sum(surrogate(problem, q, u[q]) for q in range(3)) == pytest.approx(best_value, rel=1e-6)


@pytest.mark.parametrize(("activations", "cosine", "distance"), [(1000, 0.9999, 1e-6), (None, 0.9999, 0.01)])
def test_agents_that_observe_the_same_average_to_the_step_of_centralised_trpo(activations, cosine, distance):
    """A ring of five: C-TRPO's natural gradient is that of the sum of advantages; None: the default K."""
    problem, graph = Problem(seed=1, agents=5, alike=True), make_graph("ring", 5, 0)
    activations = activations or activations_to_average(graph, RESIDUAL, "matchings", relaxation(graph, "matchings"))
    model, total = problem.models[0], torch.from_numpy(np.tile(sum(problem.advantages), (3, 1)))
    central = conjugate_gradients(lambda v: model.fisher(v)[0], model.vjp(total), 60).numpy()
    central /= np.linalg.norm(central)
    for x in problem.run_averaging(graph, activations):
        own = x / np.linalg.norm(x)
        assert own @ central >= cosine
        assert np.linalg.norm(own - central) <= distance


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_theorem_1_the_joint_update_is_trpos_step_on_the_joint_policy(seed):
    """TRPO sees the state and the sum of advantages; the agents see images of the state and their own advantages."""
    problem = Problem(seed)
    x = problem.run_admm(make_graph("ring", 3, 0), activations=1500, kind="recycled")
    joint = np.stack([problem.jacobians[q][q] @ x[q] for q in range(3)])

    model = problem.models[0]
    total = torch.from_numpy(np.tile(sum(problem.advantages), (3, 1)))
    trpo = model.jvp(conjugate_gradients(lambda v: model.fisher(v)[0], model.vjp(total), 60)).numpy()
    cosine = (joint * trpo).sum() / np.linalg.norm(joint) / np.linalg.norm(trpo)
    assert cosine > 0.99

    alone = [problem.solver(q, make_graph("none", 3, 0), "recycled") for q in range(3)]
    for q, solver in enumerate(alone):
        solver.solve(torch.from_numpy(np.tile(problem.advantages[q], (3, 1))))
    independent = np.stack([problem.jacobians[q][q] @ alone[q].x.numpy() for q in range(3)])
    independent_cosine = (independent * trpo).sum() / np.linalg.norm(independent) / np.linalg.norm(trpo)
    assert independent_cosine < 0.9
