"""From settings to the parts of a run: what every process and the in-process mode build alike."""

from __future__ import annotations

from matrpo.agent import Agent
from matrpo.config import Config, ConfigError
from matrpo.consensus.peer import Peer
from matrpo.envs.registry import make_env, stream_seed
from matrpo.envs.shared import SharedEnvironment
from matrpo.spaces import TaskSpec
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
        raise ConfigError(str(error)) from None


def build_environment(config: Config, stream: int = 0) -> SharedEnvironment:
    """The environment that all agents share.

    Args:
        config: the run's settings.
        stream: which of the run's streams of episodes it draws from; no two have an episode in common.
    """
    env = make_env(config.task, config.agents, config.num_envs, stream_seed(config.seed, stream))
    return SharedEnvironment(env, config.gamma, config.reward_scaling, config.reward)


def build_agent(agent_id: int, graph: CommunicationGraph, spec: TaskSpec, config: Config) -> Agent:
    """Agent `agent_id` with fresh networks."""
    return Agent(agent_id, len(graph.links_of(agent_id)), spec, config)


def build_peer(agent_id: int, graph: CommunicationGraph, config: Config, incarnation: int = 0) -> Peer:
    """The consensus state machine of agent `agent_id`."""
    return Peer(
        agent_id,
        graph,
        run_seed=config.seed,
        activations=link_activations(graph, config),
        beta=config.beta,
        schedule=config.schedule,
        wire_dtype=config.wire_dtype,
        deadline=config.link_deadline,
        resend=config.link_resend,
        incarnation=incarnation,
    )


def link_activations(graph: CommunicationGraph, config: Config) -> int:
    """K, the link activations of an iteration over the whole graph.

    An activation carries what an agent knows over one link: the default per link grows with the graph's diameter. For
    rings of 3, 6 and 12 agents it gives 99, 210 and 456, Table III 100, 150 and (on its other task) 500.
    """
    if config.admm_iterations is not None:
        return config.admm_iterations
    return (32 + graph.diameter()) * len(graph.links)
