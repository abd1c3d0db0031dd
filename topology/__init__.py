"""Communication graphs of the agents, the orientation signs of their links, and schedules of link activations.

Pure functions and values: no torch, no sockets, no clocks.
"""

from matrpo.topology.errors import TopologyError
from matrpo.topology.gossip import activations_to_average, relaxation
from matrpo.topology.graph import TOPOLOGIES, CommunicationGraph, Topology, make_graph, save_graph
from matrpo.topology.schedule import (
    PoissonClock,
    link_colours,
    link_sequence,
    matching_sequence,
    positions_of,
    seeded_sequence,
)

__all__ = [
    "TOPOLOGIES",
    "CommunicationGraph",
    "PoissonClock",
    "Topology",
    "TopologyError",
    "activations_to_average",
    "link_colours",
    "link_sequence",
    "make_graph",
    "matching_sequence",
    "positions_of",
    "relaxation",
    "save_graph",
    "seeded_sequence",
]
