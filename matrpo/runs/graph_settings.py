"""The communication graph that the settings name, and the settings whose defaults depend on it."""

from __future__ import annotations

from matrpo.envs.registry import task_spec
from matrpo.errors import ConfigError
from matrpo.settings.config import DecentralizedConfig, RunConfig
from matrpo.topology.errors import TopologyError
from matrpo.topology.families import ROAD
from matrpo.topology.gossip import activations_to_average, relaxation
from matrpo.topology.graph import CommunicationGraph, make_graph

RESIDUAL = 0.002
"""Root mean square difference from the mean that averaging leaves, relative to what it was at first."""


def build_graph(config: RunConfig) -> CommunicationGraph:
    """The communication graph of a run.

    Raises:
        ConfigError: the topology is unknown, impossible for that many agents or that task, or not connected.
    """
    neighbours = task_spec(config.task, config.agents).neighbours if config.topology == ROAD else None
    try:
        return make_graph(config.topology, config.agents, config.seed, neighbours)
    except TopologyError as error:
        raise ConfigError(f"bad value for 'topology': {error}") from None


def resolve_graph_settings(config: RunConfig) -> DecentralizedConfig:
    """Resolve penalty beta and activations K to numbers, so that a run keeps them whatever later defaults are.

    With ADMM, the part of an advantage that crosses a link in an iteration grows with beta, so that what one agent is
    paid for fades from link to link: the default grows with the diameter. Rings of 3, 6 and 12 agents get 0.01, 0.02
    and 0.035. An activation carries what an agent knows over one link: the default of K per link grows with the
    diameter too. For rings of 3, 6 and 12 agents it gives 99, 210 and 456, Table III 100, 150 and (on its other task)
    500. With averaging, both follow from the graph and the schedule.

    Raises:
        ConfigError: as `build_graph`; or averaging would take too many activations.
    """
    graph = build_graph(config)
    averages = config.consensus == "averaging"
    beta, activations = config.beta, config.admm_iterations
    if beta is None:
        beta = relaxation(graph, config.schedule) if averages else 0.005 * (1 + graph.diameter())
    if activations is None and averages:
        try:
            activations = activations_to_average(graph, RESIDUAL, config.schedule, beta)
        except TopologyError as error:
            raise ConfigError(f"{error}: set admm_iterations, or take links over which ways are shorter") from None
    elif activations is None:
        activations = (32 + graph.diameter()) * len(graph.links)
    return DecentralizedConfig(**{**vars(config), "beta": beta, "admm_iterations": activations})
