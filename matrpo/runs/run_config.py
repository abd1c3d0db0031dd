"""Resolves the settings of a run: what depends on the task and on the graph becomes numbers."""

from __future__ import annotations

from matrpo.envs.registry import resolve_num_agents
from matrpo.runs.graph_settings import resolve_graph_settings
from matrpo.settings import algorithm_names
from matrpo.settings.config import Config, RunConfig


def run_config(config: Config) -> RunConfig:
    """Resolve the settings of a run; those of a decentralised one are a `DecentralizedConfig`.

    Raises:
        ConfigError: there is no such task, or none of as many agents, or no such graph.
    """
    agents = resolve_num_agents(config.task, None) if config.agents is None else config.agents
    counted = RunConfig.of(config, agents)
    return counted if algorithm_names.is_central(config.algo) else resolve_graph_settings(counted)
