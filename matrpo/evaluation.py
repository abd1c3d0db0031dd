"""Evaluation of trained policies on fresh episodes: returns with a confidence interval, and rendered films."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.special import stdtrit

from matrpo import random_streams
from matrpo.algorithms.shared.algorithm import JointActor
from matrpo.build import agents_are_alike, build_agent, build_algorithm
from matrpo.envs.build import build_envs
from matrpo.envs.registry import most_at_once
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.errors import ConfigError
from matrpo.film import check_film_name, save_film
from matrpo.networks.device import on_processor
from matrpo.runs.graph_settings import build_graph
from matrpo.runs.run_directory import RunDirectory
from matrpo.sampling.acting import Actors
from matrpo.settings import algorithm_names

_LOG = logging.getLogger(__name__)
_ENDLESS = 10_000
"""Steps after which an episode counts as endless, unless the task says that its episodes may be longer."""

_COPIES = 100
"""Most environments whose episodes an evaluation is made of."""


@dataclass(frozen=True)
class Mean:
    """The mean of a number that the task says of an episode, such as a rate of wins.

    Attributes:
        mean: over the episodes.
        ci95: its `mean_interval`.
    """

    mean: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class EvaluationResult:
    """Undiscounted episode returns in the task's own unit, summed over steps and agents.

    Attributes:
        iteration: the checkpoint that was evaluated.
        episodes: how many.
        return_mean: of the team.
        return_ci95: Student's 95% confidence interval of that mean; None of one episode.
        per_agent: each agent's own mean return.
        statistics: what else the task says of its episodes, by name (`VectorEnv.statistics`).
    """

    iteration: int
    episodes: int
    return_mean: float
    return_ci95: tuple[float, float] | None
    per_agent: dict[str, float]
    statistics: dict[str, Mean]


def evaluate(
    run: RunDirectory,
    episodes: int = 100,
    *,
    deterministic: bool = True,
    iteration: int | None = None,
    num_envs: int | None = None,
) -> EvaluationResult:
    """Evaluate the run's policies on fresh episodes and average their returns.

    Which episodes count is decided beforehand, since those that end first are the short ones: each of B = min(episodes,
    100) environments plays its first episodes // B, and the first episodes % B of them one more.

    Args:
        run: a run with a checkpoint.
        episodes: exactly so many.
        deterministic: take the most probable action instead of a sampled one.
        iteration: which checkpoint; by default the latest that all agents have.
        num_envs: most environments to step at once, by default all, or as many as cores if each is a process; the
            episodes that they play are the same.

    Raises:
        ConfigError: there is no checkpoint, or it does not fit the task.
    """
    copies = min(episodes, _COPIES)
    shares = (episodes + np.arange(copies)[::-1]) // copies
    generator = torch.Generator().manual_seed(random_streams.EVALUATED_ACTIONS)
    num_envs = num_envs or most_at_once(run.config.task) or copies
    parts, played = [], 0
    for first in range(0, copies, num_envs):
        share = shares[first : first + num_envs]
        env = _make_env(run, len(share), first if len(share) < copies else None)
        try:
            actor, played = load_actor(run, env, played or iteration)
            env.reset()
            parts.append(_episodes(env, _steps(env, actor, generator, deterministic), share, shares[0]))
        finally:
            env.close()
    rows = np.concatenate(parts, axis=1)[np.arange(shares[0])[:, np.newaxis] < shares]
    returns, own = np.split(rows, [env.spec.num_agents], axis=1)
    team = returns.sum(axis=1)
    per_agent = {name: float(returns[:, q].mean()) for q, name in enumerate(env.spec.agents)}
    statistics = {
        name: Mean(float(own[:, k].mean()), mean_interval(own[:, k])) for k, name in enumerate(env.statistics)
    }
    return EvaluationResult(played, episodes, float(team.mean()), mean_interval(team), per_agent, statistics)


def mean_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Student's 95% confidence interval of the mean of n values, mean +- t_{0.975, n - 1} s / sqrt(n); None of one."""
    if len(values) < 2:
        return None
    mean, half = float(values.mean()), float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1))
    half /= math.sqrt(len(values))
    return mean - half, mean + half


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
    env = _make_env(run, 1)
    try:
        actor, _ = load_actor(run, env, None)
        env.reset()
        generator = torch.Generator().manual_seed(random_streams.EVALUATED_ACTIONS)
        return save_film(_frames(env, _steps(env, actor, generator, deterministic)), path)
    finally:
        env.close()


def _frames(env: VectorEnv, steps: Iterator[VectorStep]) -> Iterator[np.ndarray]:
    """Rendered frames of an episode that has just begun, without its last state, which the reset has replaced."""
    yield env.render()
    for step in steps:
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
    iteration = _newest(run) if iteration is None else iteration
    run.check_checkpoints(iteration, env.spec)
    torch.set_num_threads(run.config.torch_threads)
    if algorithm_names.is_central(run.config.algo):
        algorithm = build_algorithm(env, on_processor(run.config))
        algorithm.load_checkpoint(run, iteration)
        return algorithm.actor(env.num_envs), iteration
    config = on_processor(run.decentralized)
    graph = build_graph(config)
    agents = [build_agent(q, graph, env.spec, config) for q in range(run.num_agents)]
    for q, agent in enumerate(agents):
        agent.load_state_dict(*run.agent(q).load_checkpoint(iteration))
    return Actors([agent.policy for agent in agents], env.num_envs), iteration


def _newest(run: RunDirectory) -> int:
    """The newest iteration of which all processes have a whole checkpoint.

    Raises:
        ConfigError: there is none.
    """
    point = run.resume_point(laggards=False)
    if point.refusal:
        raise ConfigError(f"{run.path} has no checkpoint that all processes have: {point.refusal}")
    if not point.iteration:
        raise ConfigError(f"{run.path} has no checkpoint yet: nothing to evaluate")
    for line in point.damaged:
        _LOG.warning("%s; taking iteration %d instead", line, point.iteration)
    return point.iteration


def _make_env(run: RunDirectory, num_envs: int, first: int | None = None) -> VectorEnv:
    seed = random_streams.evaluation(run.config.seed)
    return build_envs(run.config, num_envs, seed, first, alike=agents_are_alike(run.config))


def _episodes(env: VectorEnv, steps: Iterator[VectorStep], shares: np.ndarray, most: int) -> np.ndarray:
    """Returns of the N agents, and the task's K statistics, of the first shares[b] episodes of each environment b.

    Returns:
        (most, B, N + K) float64.
    """
    finished = np.zeros(env.num_envs, dtype=np.int64)
    num_agents = env.spec.num_agents
    returns = np.zeros((env.num_envs, num_agents))
    kept = np.zeros((most, env.num_envs, num_agents + len(env.statistics)))
    while (finished < shares).any():
        step = next(steps)
        returns += step.rewards
        counted = np.flatnonzero(step.ended & (finished < shares))
        kept[finished[counted], counted, :num_agents] = returns[counted]
        if step.statistics is not None:
            kept[finished[counted], counted, num_agents:] = step.statistics[counted]
        returns[step.ended] = 0.0
        finished += step.ended
    return kept


def _steps(env: VectorEnv, actor: JointActor, generator: torch.Generator, deterministic: bool) -> Iterator[VectorStep]:
    observations = env.observe()
    ended = np.zeros((env.num_envs, env.spec.num_agents), dtype=bool)
    lengths = np.zeros(env.num_envs, dtype=np.int64)
    longest = max(_ENDLESS, env.spec.episode_length or 0)
    while lengths.max() < longest:
        joint_action = actor.act(env.actor_inputs(observations, ended), generator, deterministic)
        step = env.step(env.spec.task_units(joint_action))
        observations, ended = step.observations, step.terminated | step.truncated
        lengths = np.where(step.ended, 0, lengths + 1)
        yield step
    raise ConfigError(
        f"an episode of {env.spec.name} goes on after {longest:,} steps: --episode-length cuts episodes off"
    )
