"""Trained policies on fresh episodes: returns with a confidence interval, and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from matrpo.agent import Agent
from matrpo.build import build_agent
from matrpo.config import ConfigError
from matrpo.envs.registry import make_env
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.film import check_film_name, save_film
from matrpo.graph_settings import build_graph
from matrpo.policy import Actor
from matrpo.run_directory import RunDirectory

EVALUATION_SEED = 1_000_003
"""Added to the run's seed: evaluation never sees the episodes that training saw."""
_MOST_ENVS = 100


@dataclass(frozen=True)
class EvaluationResult:
    """Undiscounted returns in the task's own unit, an episode's summed over its steps and the agents.

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
    """Let the run's agents act in new episodes and sum up their rewards.

    Args:
        run: a run with a checkpoint.
        episodes: exactly so many, however many environments they take.
        deterministic: act by the most probable action instead of a drawn one.
        iteration: which checkpoint; by default the latest that all agents have.

    Raises:
        ConfigError: there is no checkpoint, or it does not fit the task.
    """
    agents, iteration = load_agents(run, iteration)
    env = make_env(run.config.task, run.num_agents, min(episodes, _MOST_ENVS), run.config.seed + EVALUATION_SEED)
    try:
        returns = np.concatenate(list(_episode_returns(env, agents, episodes, deterministic)))[:episodes]
    finally:
        env.close()
    team = returns.sum(axis=1)
    mean = float(team.mean())
    half = 1.96 * float(team.std(ddof=1)) / math.sqrt(episodes) if episodes > 1 else math.inf
    per_agent = {name: float(returns[:, q].mean()) for q, name in enumerate(env.spec.agents)}
    return EvaluationResult(iteration, episodes, mean, (mean - half, mean + half), per_agent)


def render_episode(run: RunDirectory, path: Path, *, deterministic: bool = True) -> int:
    """Save one episode as a film.

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
    agents, _ = load_agents(run, None)
    env = make_env(run.config.task, run.num_agents, 1, run.config.seed + EVALUATION_SEED)
    try:
        env.reset()
        return save_film(_frames(env, agents, deterministic), path)
    finally:
        env.close()


def _frames(env: VectorEnv, agents: list[Agent], deterministic: bool) -> Iterator[np.ndarray]:
    """Pictures of an episode that has just begun, but for its last state, which the next episode's has replaced."""
    yield env.render()
    for step in _steps(env, agents, deterministic):
        if step.ended[0]:
            return
        yield env.render()


def load_agents(run: RunDirectory, iteration: int | None) -> tuple[list[Agent], int]:
    """The run's agents as of a checkpoint, by default the latest common one, and its iteration."""
    iteration = run.latest_common_iteration() if iteration is None else iteration
    if not iteration:
        raise ConfigError(f"{run.path} has no checkpoint yet: nothing to evaluate")
    env = make_env(run.config.task, run.num_agents, 1, 0)
    env.close()
    run.check_checkpoints(iteration, env.spec)
    graph = build_graph(run.config)
    agents = [build_agent(q, graph, env.spec, run.config) for q in range(run.num_agents)]
    for q, agent in enumerate(agents):
        agent.load_state_dict(*run.agent(q).load_checkpoint(iteration))
    return agents, iteration


def _episode_returns(env: VectorEnv, agents: list[Agent], episodes: int, deterministic: bool) -> Iterator[np.ndarray]:
    """Per-agent returns, (episodes, N), of whole episodes, the same number from every environment."""
    env.reset()
    wanted = -(-episodes // env.num_envs)
    finished = np.zeros(env.num_envs, dtype=np.int64)
    returns = np.zeros((env.num_envs, env.spec.num_agents))
    for step in _steps(env, agents, deterministic):
        returns += step.rewards
        counted = step.ended & (finished < wanted)
        yield returns[counted]
        returns[step.ended] = 0.0
        finished += step.ended
        if (finished >= wanted).all():
            return


def _steps(env: VectorEnv, agents: list[Agent], deterministic: bool) -> Iterator[VectorStep]:
    observations = env.observe()
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    actors = [Actor(agent.policy, env.num_envs) for agent in agents]
    ended = np.zeros((env.num_envs, len(agents)), dtype=bool)
    while True:
        masks = env.action_masks()
        actions = [
            actor.act(observation, mask, ended[:, q].copy(), generator, deterministic)
            for q, (actor, observation, mask) in enumerate(zip(actors, observations, masks, strict=True))
        ]
        step = env.step(np.concatenate(actions, axis=1))
        observations, ended = step.observations, step.terminated | step.truncated
        yield step
