"""Builds the shared environment, or one server's shard of it, from the settings. Nothing here needs torch."""

from __future__ import annotations

import os
from functools import partial

from matrpo import random_streams
from matrpo.envs.registry import make_env
from matrpo.envs.shared import SharedEnvironment
from matrpo.settings.config import Config


def build_environment(config: Config, stream: int = 0, server: int | None = None) -> SharedEnvironment:
    """Build the environment that all agents share.

    Args:
        config: the run's settings.
        stream: which of the run's streams of episodes it draws from; no two have an episode in common.
        server: only the share of this environment server.

    Raises:
        ConfigError: the task's environments cannot be dealt out to several servers.
    """
    num_envs, first, workers = config.num_envs, None, config.env_workers
    if server is not None and config.env_servers > 1:
        num_envs, first = config.envs_per_server, server * config.envs_per_server
        workers = workers or max(1, len(os.sched_getaffinity(0)) // config.env_servers)
    seed = random_streams.episodes(config.seed, stream)
    seed_globals = partial(random_streams.seed_globals, seed, first or 0)
    seed_globals(built=False)
    env = make_env(config.task, config.agents, num_envs, seed, first, workers)
    return SharedEnvironment(
        env, config.gamma, config.reward_scaling, config.reward, before_reset=partial(seed_globals, built=True)
    )
