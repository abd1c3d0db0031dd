"""Factories that build agents and algorithms from the settings, for every process and for the in-process mode alike."""

from __future__ import annotations

from contextlib import nullcontext

from matrpo.algorithms.dnamarl import TeamValueAgent
from matrpo.algorithms.shared.algorithm import Algorithm, masks_refused
from matrpo.consensus.peer import Peer
from matrpo.decentralized.actor_critic import ActorCritic
from matrpo.decentralized.agent import Agent
from matrpo.decentralized.iteration import Participant
from matrpo.envs.vector_env import VectorEnv
from matrpo.errors import ConfigError
from matrpo.runs.phase_clock import PhaseClock
from matrpo.settings import algorithm_names
from matrpo.settings.config import Config, DecentralizedConfig
from matrpo.settings.user_file import UserFile
from matrpo.spaces import TaskSpec
from matrpo.topology.graph import CommunicationGraph


def state_sizes(env: VectorEnv, state_type: str) -> tuple[int, ...]:
    """Lengths of the states that centralised critics observe: one for all agents (`ep`), or one per agent (`fp`)."""
    env.reset()
    state = env.state()
    views = env.agent_states(state, env.observe()) if state_type == "fp" else [state]
    return tuple(view.shape[1] for view in views)


def build_agent(agent_id: int, graph: CommunicationGraph, spec: TaskSpec, config: DecentralizedConfig) -> ActorCritic:
    """Build agent `agent_id` with freshly initialised networks."""
    if algorithm_names.entry(config.algo).averages_targets:
        return TeamValueAgent(agent_id, spec, config)
    penalty = 0.0 if config.consensus == "averaging" else len(graph.links_of(agent_id)) * config.beta
    return Agent(agent_id, penalty, spec, config)


def build_participant(
    agent_id: int,
    graph: CommunicationGraph,
    spec: TaskSpec,
    config: DecentralizedConfig,
    clock: PhaseClock,
    incarnation: int = 0,
) -> Participant:
    """Build agent `agent_id` with freshly initialised networks, and its consensus peer."""
    peer = Peer(agent_id, graph, config.seed, config, config, incarnation)
    return Participant(build_agent(agent_id, graph, spec, config), peer, clock)


def algorithm_class(name: str) -> type[Algorithm]:
    """The class of a centralised algorithm, by name.

    Raises:
        ConfigError: a user's file cannot be imported, or has no such class.
    """
    if file := algorithm_names.user_file(name):
        return _class_from_file(file)
    found: type[Algorithm] = algorithm_names.ALGORITHMS[name].load()
    return found


def build_algorithm(env: VectorEnv, config: Config) -> Algorithm:
    """Build a centralised algorithm, which trains all agents of a task, with freshly initialised networks.

    Raises:
        ConfigError: there is none of that name, or it cannot handle the task or the settings.
    """
    kind, file = algorithm_class(config.algo), algorithm_names.user_file(config.algo)
    sizes = state_sizes(env, config.state_type)
    if not kind.handles_masks and any(mask is not None for mask in env.action_masks()):
        raise masks_refused(config.algo, env.spec.name)
    with file.blamed("its constructor") if file else nullcontext():
        return kind(env.spec, sizes, config)


def agents_are_alike(config: Config) -> bool:
    """Whether the algorithm's agents see and do the same things, and see their ids: see `AlikeAgents`."""
    central = algorithm_names.is_central(config.algo)
    return config.agent_id and central and "agent_id" in algorithm_class(config.algo).settings_read


def _class_from_file(file: UserFile) -> type[Algorithm]:
    found = file.load("class")
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ConfigError(f"algo '{file}': it is no subclass of matrpo.algorithms.shared.algorithm.Algorithm")
    if missing := sorted(found.__abstractmethods__):
        raise ConfigError(f"algo '{file}': the class has no method {', '.join(missing)}")
    return found
