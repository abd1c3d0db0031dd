"""Credit assignment in the treasure task: where the signal of the reward that banks are paid is lost for its hunters.

Hunters that turn towards the nearest treasure earn many times what drawn actions do. This measures, for untrained
agents, how much of that direction one iteration's samples show, which networks can express it, and how much of it is in
the steps that agents take.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from matrpo.envs.particle.treasure import TreasureEnv, treasure_spec
from matrpo.envs.particle.treasure_hunt import num_banks
from matrpo.experiments.bench.problem import Problem, Snapshot, train
from matrpo.experiments.bench.report import Report, Row, Say
from matrpo.settings.config import Config, resolve, to_dict
from matrpo.trust_region.solvers import FactoredModel, Solver, make_preconditioner, make_solver
from matrpo.trust_region.step_rule import make_step_rule

SPEC = treasure_spec(8)
BANKS = num_banks(SPEC.num_agents)
HUNTERS = SPEC.num_agents - BANKS
_MOVES = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
"""Movement of each action: stay, left, right, down, up."""

_WARM_UP = 4
"""Iterations in which the critics learn and the policies stay fixed."""

_FIXED = 1e-12
"""Trust-region radius (KL) with which the policies stay fixed."""


def run(batches: int, changes: Mapping[str, Any], quick: bool, say: Say) -> Report:
    """Measure the signal in rewards, in samples, in the networks and in the agents' steps.

    Args:
        batches: of an iteration's samples, at least 2.
        changes: settings that are not the default.
        quick: tiny sizes.
        say: told about the progress.

    Raises:
        ConfigError: a setting is unknown or has a bad value.
    """
    torch.set_num_threads(1)
    sizes = {"num_envs": 4, "rollout_length": 25, "hidden_sizes": (16, 16)} if quick else {}
    fixed = {"task": "treasure", "agents": SPEC.num_agents, "tensorboard": False}
    base = resolve(("benchmark", sizes), ("-o", changes), ("benchmark", fixed))
    say("what turning towards treasures earns")
    earned = [_earned(tilt, base.num_envs) for tilt in (0.0, 0.25, 0.5, 1.0, 4.0)]
    say(f"{_WARM_UP} iterations of fitting critics, then one more for each batch")
    critics_only = dataclasses.replace(base, topology="none", kl_step=_FIXED)
    snapshots = train(critics_only, _WARM_UP + batches - 1)[_WARM_UP:]
    say("what samples show, and networks can express")
    tables = {
        "return of an episode, by how strongly hunters turn to the nearest treasure, or their bank": earned,
        "the direction in one batch's advantages": _shown(Problem(snapshot, base) for snapshot in snapshots),
        "correlation of the direction with what networks can express of it": _expressed(
            *(Problem(snapshot, base) for snapshot in snapshots[:2])
        ),
        "correlation of the hunters' steps with the direction": _taken(snapshots, base, say),
    }
    return Report("signal", {**to_dict(base), "batches": batches}, tables)


def _earned(tilt: float, num_envs: int) -> Row:
    """Return of an episode whose hunters' action probabilities are tilted towards their goal."""
    env = TreasureEnv(SPEC.num_agents, num_envs, seed=0)
    generator = torch.Generator().manual_seed(0)
    observations, total = env.reset(), np.zeros(SPEC.num_agents)
    for _ in range(SPEC.episode_length or 0):
        logits = [tilt * _usefulness(torch.from_numpy(seen), banks_too=True) for seen in observations[:HUNTERS]]
        logits += [torch.zeros_like(logits[0])] * BANKS
        actions = [torch.multinomial(row.softmax(1), 1, generator=generator) for row in logits]
        step = env.step(torch.cat(actions, dim=1).float().numpy())
        observations, total = step.observations, total + step.rewards.mean(0)
    return {"tilt": tilt, "a bank": total[-1], "all hunters": total[:HUNTERS].sum(), "team": total.sum()}


def _usefulness(seen: Tensor, banks_too: bool) -> Tensor:
    """How directly each action leads a hunter to its goal, -1 to 1; 0 without one. (batch, O) -> (batch, actions).

    Args:
        seen: a hunter's observations.
        banks_too: a loaded hunter's goal is its bank; else it has none.
    """
    holding, present = seen[:, -BANKS:], seen[:, 6 : 6 + BANKS].any(1)
    goal = seen[:, 4:6] * (present & ~holding.any(1)).unsqueeze(1)
    if banks_too:
        goal = goal + (seen[:, -3 * BANKS : -BANKS].view(-1, BANKS, 2) * holding.unsqueeze(2)).sum(1)
    return normalize(goal, dim=1) @ _MOVES.T


def _direction(problem: Problem, hunter: int) -> Tensor:
    """Score of a hunter's M actions, for a small tilt to the nearest treasure, of mean square 1. Shape (M,)."""
    rollout = problem.agents[hunter].rollout
    useful = _usefulness(rollout.observations, banks_too=False)
    actions = rollout.joint_actions[:, SPEC.action_slices[hunter]].long()
    score = (useful - useful.mean(1, keepdim=True)).gather(1, actions).squeeze(1)
    return score / score.square().mean().sqrt()


def _sums(problem: Problem) -> dict[str, Tensor]:
    """Sums of advantages, shape (M,) each: over the banks, over the hunters, over all."""
    advantages = torch.stack(problem.advantages)
    return {"banks": advantages[HUNTERS:].sum(0), "hunters": advantages[:HUNTERS].sum(0), "all": advantages.sum(0)}


def _shown(problems: Iterable[Problem]) -> list[Row]:
    found = [(_sums(problem), _direction(problem, q)) for problem in problems for q in range(HUNTERS)]
    rows: list[Row] = []
    for whose in ("banks", "hunters", "all"):
        pairs = [(sums[whose], direction) for sums, direction in found]
        slope = float(np.mean([float(advantage @ score) / len(score) for advantage, score in pairs]))
        noise = float(np.mean([float(advantage.std()) / len(advantage) ** 0.5 for advantage, _ in pairs]))
        rows.append({"advantages of": whose, "slope": slope, "standard error": noise, "ratio": slope / noise})
    return rows


@torch.no_grad()
def _expressed(problem: Problem, other: Problem) -> list[Row]:
    """Fit hunter 0's head to the direction on one batch, in each kind of agent; correlations on both batches."""
    config = dataclasses.replace(problem.config, damping=0.01, cg_iterations=60, solver_tolerance=0.003)
    weights = torch.zeros(SPEC.num_agents, config.samples)
    weights[0] = _direction(problem, 0)
    rows: list[Row] = []
    for who, agent in {"the hunter itself": 0, "another hunter": 1, "a bank": HUNTERS}.items():
        solver = _solver(problem.agents[agent].update.model, config)
        fitted = solver.solve(weights)[0]
        again = other.agents[agent].update.model.jvp(solver.x)[0]
        rows.append(
            {
                "model of": who,
                "on its samples": _correlation(fitted, weights[0]),
                "on others": _correlation(again, _direction(other, 0)),
            }
        )
    return rows


def _taken(snapshots: Sequence[Snapshot], config: Config, say: Say) -> list[Row]:
    """Correlation of hunters' steps with the direction: on sums of advantages, which none knows, and by consensus."""
    found: dict[str, list[float]] = defaultdict(list)
    for number, snapshot in enumerate(snapshots):
        say(f"steps on batch {number + 1} of {len(snapshots)}")
        problem = Problem(snapshot, config)
        activations = problem.config.admm_iterations
        longer = Problem(snapshot, dataclasses.replace(config, admm_iterations=3 * activations))
        ways = {
            "on the sum of the banks' advantages": _informed_steps(problem, "banks"),
            "on the sum of all": _informed_steps(problem, "all"),
            f"MATRPO, K = {activations}": _consensus_steps(problem),
            f"MATRPO, K = {3 * activations}": _consensus_steps(longer),
        }
        directions = [_direction(problem, q) for q in range(HUNTERS)]
        for name, steps in ways.items():
            found[name] += [_correlation(*pair) for pair in zip(steps, directions, strict=True)]
    return [
        {"steps": name, "correlation": float(np.mean(each)), "standard error": float(np.std(each)) / len(each) ** 0.5}
        for name, each in found.items()
    ]


def _solver(model: FactoredModel, config: Config) -> Solver:
    rule = make_step_rule(config.kl_step, 0.0, config)
    return make_solver(model, rule, make_preconditioner(model, config), config)


@torch.no_grad()
def _informed_steps(problem: Problem, whose: str) -> list[Tensor]:
    """Log ratios of every hunter's own head, (M,), after a natural-gradient step on a sum of advantages."""
    total, config = _sums(problem)[whose], problem.config
    steps = []
    for hunter in range(HUNTERS):
        weights = torch.zeros(SPEC.num_agents, config.samples)
        weights[hunter] = total
        solver = _solver(problem.agents[hunter].update.model, config)
        steps.append(solver.solve(weights)[hunter])
    return steps


@torch.no_grad()
def _consensus_steps(problem: Problem) -> list[Tensor]:
    """Log ratios of every hunter's own head, (M,), at the end of the consensus phase."""
    problem.agree()
    return [ratios[hunter] for hunter, ratios in enumerate(problem.ratios()[:HUNTERS])]


def _correlation(step: Tensor, direction: Tensor) -> float:
    return float((step * direction).mean() / (step.square().mean() * direction.square().mean()).sqrt())
