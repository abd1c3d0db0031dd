"""Builds the shared environment, or one server's shard of it, from the settings. Nothing here needs torch."""

from __future__ import annotations

from matrpo import random_streams
from matrpo.envs.registry import make_env, task_spec
from matrpo.envs.shared import SharedEnvironment
from matrpo.envs.vector_env import VectorEnv
from matrpo.envs.workers.cores import usable_cores
from matrpo.envs.wrappers.alike import AlikeAgents, made_alike
from matrpo.envs.wrappers.changes import ObservedChanges, with_changes
from matrpo.settings.algorithm_names import is_central
from matrpo.settings.config import Config
from matrpo.spaces import TaskSpec


def run_spec(config: Config, alike: bool = False) -> TaskSpec:
    """Agents and spaces of a run's task, as its settings show them to the agents; arguments as of `build_envs`."""
    spec = task_spec(config.task, config.agents)
    if config.observe_changes is not None:
        spec = with_changes(spec)
    return made_alike(spec) if alike else spec


def build_environment(
    config: Config, stream: int = 0, server: int | None = None, alike: bool = False
) -> SharedEnvironment:
    """Build the environment that all agents share.

    Args:
        config: the run's settings.
        stream: which of the run's streams of episodes it draws from; no two have an episode in common.
        server: only the share of this environment server.
        alike: with agents made alike (`AlikeAgents`).

    Raises:
        ConfigError: the task's environments cannot be dealt out to several servers, or its agents be made alike.
    """
    num_envs, first = config.num_envs, None
    if server is not None and config.env_servers > 1:
        num_envs, first = config.envs_per_server, server * config.envs_per_server
    env = build_envs(config, num_envs, random_streams.episodes(config.seed, stream), first, alike)
    absent_idle = not is_central(config.algo)
    return SharedEnvironment(env, config.gamma, config.reward_scaling, config.reward, absent_idle)


def build_envs(config: Config, num_envs: int, seed: int, first: int | None = None, alike: bool = False) -> VectorEnv:
    """Build environments of a run's task as its settings say, for training or for evaluation.

    Args:
        config: the run's settings.
        num_envs: B.
        seed: of everything random in them.
        first: the number of the first of them in a larger batch, if they are a part of one.
        alike: with agents made alike (`AlikeAgents`).

    Raises:
        ConfigError: the task cannot be dealt out to several servers or workers, or its agents be made alike.
    """
    env = make_env(config.task, config.agents, num_envs, seed, first, config.env_workers, config.episode_length)
    if config.env_workers is None and config.env_servers > 1:
        env.limit_workers(max(1, usable_cores() // config.env_servers))
    if config.observe_changes is not None:
        env = ObservedChanges(env, config.observe_changes)
    return AlikeAgents(env) if alike else env
