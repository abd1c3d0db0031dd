"""The communication graph that the settings name, and the settings whose defaults depend on it."""

from __future__ import annotations

import dataclasses

from matrpo.errors import ConfigError
from matrpo.settings.config import Config
from matrpo.topology.errors import TopologyError
from matrpo.topology.graph import CommunicationGraph, make_graph


def build_graph(config: Config) -> CommunicationGraph:
    """The communication graph of a run whose number of agents is resolved.

    Raises:
        ConfigError: the topology is unknown, impossible for that many agents, or not connected.
    """
    assert config.agents is not None
    try:
        return make_graph(config.topology, config.agents, config.seed)
    except TopologyError as error:
        raise ConfigError(f"bad value for 'topology': {error}") from None


def resolve_graph_settings(config: Config) -> Config:
    """The settings with beta and K as numbers, so that a run keeps them whatever later defaults are.

    Raises:
        ConfigError: as `build_graph`.
    """
    graph = build_graph(config)
    return dataclasses.replace(
        config, beta=link_penalty(graph, config), admm_iterations=link_activations(graph, config)
    )


def link_penalty(graph: CommunicationGraph, config: Config) -> float:
    """beta, the ADMM penalty of every link.

    The part of an advantage that crosses a link in an iteration grows with beta, so that what one agent is paid for
    fades from link to link: the default grows with the diameter. Rings of 3, 6 and 12 agents get 0.01, 0.02 and 0.035.
    """
    return 0.005 * (1 + graph.diameter()) if config.beta is None else config.beta


def agent_penalty(agent_id: int, graph: CommunicationGraph, config: Config) -> float:
    """`|E(q)| beta` of agent q."""
    return len(graph.links_of(agent_id)) * link_penalty(graph, config)


def link_activations(graph: CommunicationGraph, config: Config) -> int:
    """K, the link activations of an iteration over the whole graph.

    An activation carries what an agent knows over one link: the default per link grows with the graph's diameter. For
    rings of 3, 6 and 12 agents it gives 99, 210 and 456, Table III 100, 150 and (on its other task) 500.
    """
    if config.admm_iterations is not None:
        return config.admm_iterations
    return (32 + graph.diameter()) * len(graph.links)
