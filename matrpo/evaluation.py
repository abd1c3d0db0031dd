"""Evaluation of trained policies on fresh episodes: returns with a confidence interval, and rendered films."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from matrpo.algorithms.shared.algorithm import JointActor
from matrpo.build import build_agent, build_algorithm
from matrpo.envs.registry import make_env
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.errors import ConfigError
from matrpo.film import check_film_name, save_film
from matrpo.runs.run_directory import RunDirectory
from matrpo.sampling.acting import Actors
from matrpo.settings import algorithm_names
from matrpo.settings.graph_settings import build_graph

EVALUATION_SEED = 1_000_003
"""Offset of the evaluation seed from the run's seed: evaluation never sees the episodes that training saw."""
_MOST_ENVS = 100


@dataclass(frozen=True)
class EvaluationResult:
    """Undiscounted episode returns in the task's own unit, summed over steps and agents.

    Attributes:
        iteration: the checkpoint that was evaluated.
        episodes: how many.
        return_mean: of the team.
        return_ci95: normal 95% confidence interval of that mean.
        per_agent: each agent's own mean return.
    """

    iteration: int
    episodes: int
    return_mean: float
    return_ci95: tuple[float, float]
    per_agent: dict[str, float]


def evaluate(
    run: RunDirectory, episodes: int = 100, *, deterministic: bool = True, iteration: int | None = None
) -> EvaluationResult:
    """Evaluate the run's policies on fresh episodes and average their returns.

    Args:
        run: a run with a checkpoint.
        episodes: exactly so many, however many environments they take.
        deterministic: take the most probable action instead of a sampled one.
        iteration: which checkpoint; by default the latest that all agents have.

    Raises:
        ConfigError: there is no checkpoint, or it does not fit the task.
    """
    env = make_env(run.config.task, run.num_agents, min(episodes, _MOST_ENVS), run.config.seed + EVALUATION_SEED)
    try:
        actor, iteration = load_actor(run, env, iteration)
        returns = np.concatenate(list(_episode_returns(env, actor, episodes, deterministic)))[:episodes]
    finally:
        env.close()
    team = returns.sum(axis=1)
    mean = float(team.mean())
    half = 1.96 * float(team.std(ddof=1)) / math.sqrt(episodes) if episodes > 1 else math.inf
    per_agent = {name: float(returns[:, q].mean()) for q, name in enumerate(env.spec.agents)}
    return EvaluationResult(iteration, episodes, mean, (mean - half, mean + half), per_agent)


def render_episode(run: RunDirectory, path: Path, *, deterministic: bool = True) -> int:
    """Render one episode and save it as a film.

    Args:
        run: a run with a checkpoint.
        path: the file to write, .gif or .mp4.
        deterministic: as in `evaluate`.

    Returns:
        The number of frames.

    Raises:
        ConfigError: there is no checkpoint, the task cannot be drawn, or the file cannot be written.
    """
    check_film_name(path)
    env = make_env(run.config.task, run.num_agents, 1, run.config.seed + EVALUATION_SEED)
    try:
        actor, _ = load_actor(run, env, None)
        env.reset()
        return save_film(_frames(env, actor, deterministic), path)
    finally:
        env.close()


def _frames(env: VectorEnv, actor: JointActor, deterministic: bool) -> Iterator[np.ndarray]:
    """Rendered frames of an episode that has just begun, without its last state, which the reset has replaced."""
    yield env.render()
    for step in _steps(env, actor, deterministic):
        if step.ended[0]:
            return
        yield env.render()


def load_actor(run: RunDirectory, env: VectorEnv, iteration: int | None) -> tuple[JointActor, int]:
    """Load the joint actor of a checkpoint, by default the latest that all agents have, and its iteration.

    Args:
        run: a run with a checkpoint.
        env: where they will act.
        iteration: which checkpoint.

    Raises:
        ConfigError: there is no checkpoint, or it does not fit the task.
    """
    iteration = run.latest_common_iteration() if iteration is None else iteration
    if not iteration:
        raise ConfigError(f"{run.path} has no checkpoint yet: nothing to evaluate")
    run.check_checkpoints(iteration, env.spec)
    if algorithm_names.is_central(run.config.algo):
        algorithm = build_algorithm(env, run.config)
        algorithm.load_checkpoint(run, iteration)
        return algorithm.actor(env.num_envs), iteration
    config = run.decentralized
    graph = build_graph(config)
    agents = [build_agent(q, graph, env.spec, config) for q in range(run.num_agents)]
    for q, agent in enumerate(agents):
        agent.load_state_dict(*run.agent(q).load_checkpoint(iteration))
    return Actors([agent.policy for agent in agents], env.num_envs), iteration


def _episode_returns(env: VectorEnv, actor: JointActor, episodes: int, deterministic: bool) -> Iterator[np.ndarray]:
    """Per-agent returns, (episodes, N), of whole episodes, the same number from every environment."""
    env.reset()
    wanted = -(-episodes // env.num_envs)
    finished = np.zeros(env.num_envs, dtype=np.int64)
    returns = np.zeros((env.num_envs, env.spec.num_agents))
    for step in _steps(env, actor, deterministic):
        returns += step.rewards
        counted = step.ended & (finished < wanted)
        yield returns[counted]
        returns[step.ended] = 0.0
        finished += step.ended
        if (finished >= wanted).all():
            return


def _steps(env: VectorEnv, actor: JointActor, deterministic: bool) -> Iterator[VectorStep]:
    observations = env.observe()
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    ended = np.zeros((env.num_envs, env.spec.num_agents), dtype=bool)
    while True:
        joint_action = actor.act(env.actor_inputs(observations, ended), generator, deterministic)
        step = env.step(env.spec.task_units(joint_action))
        observations, ended = step.observations, step.terminated | step.truncated
        yield step
