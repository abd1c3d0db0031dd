"""From settings to the parts of a run: what every process and the in-process mode build alike."""

from __future__ import annotations

import os
from contextlib import nullcontext
from importlib import import_module

from matrpo import algorithm_table
from matrpo.agent import Agent
from matrpo.algorithms.algorithm import Algorithm
from matrpo.config import Config, ConfigError
from matrpo.consensus.peer import Peer
from matrpo.envs.registry import make_env, stream_seed
from matrpo.envs.shared import SharedEnvironment
from matrpo.envs.vector_env import VectorEnv
from matrpo.graph_settings import agent_penalty, link_activations, link_penalty
from matrpo.spaces import TaskSpec
from matrpo.topology.graph import CommunicationGraph
from matrpo.user_file import UserFile


def build_environment(config: Config, stream: int = 0, server: int | None = None) -> SharedEnvironment:
    """The environment that all agents share.

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
    env = make_env(config.task, config.agents, num_envs, stream_seed(config.seed, stream), first, workers)
    return SharedEnvironment(env, config.gamma, config.reward_scaling, config.reward)


def state_sizes(env: VectorEnv, state_type: str) -> tuple[int, ...]:
    """Length of each state that centralised critics see: of one for all agents (`ep`), or one for each (`fp`)."""
    env.reset()
    state = env.state()
    views = env.agent_states(state, env.observe()) if state_type == "fp" else [state]
    return tuple(view.shape[1] for view in views)


def build_agent(agent_id: int, graph: CommunicationGraph, spec: TaskSpec, config: Config) -> Agent:
    """Agent `agent_id` with fresh networks."""
    return Agent(agent_id, agent_penalty(agent_id, graph, config), spec, config)


def build_peer(agent_id: int, graph: CommunicationGraph, config: Config, incarnation: int = 0) -> Peer:
    """The consensus state machine of agent `agent_id`."""
    return Peer(
        agent_id,
        graph,
        run_seed=config.seed,
        activations=link_activations(graph, config),
        beta=link_penalty(graph, config),
        schedule=config.schedule,
        wire_dtype=config.wire_dtype,
        deadline=config.link_deadline,
        resend=config.link_resend,
        incarnation=incarnation,
    )


def algorithm_class(name: str) -> type[Algorithm]:
    """The class of an algorithm that trains centrally.

    Raises:
        ConfigError: a user's file cannot be imported, or has no such class.
    """
    if file := algorithm_table.user_file(name):
        return _class_from_file(file)
    module, _, target = algorithm_table.ALGORITHMS[name].target.partition(":")
    found: type[Algorithm] = getattr(import_module(f"matrpo.algorithms.{module}"), target)
    return found


def build_algorithm(env: VectorEnv, config: Config) -> Algorithm:
    """The algorithm that trains all agents of a task centrally, with fresh networks.

    Raises:
        ConfigError: there is none of that name, or it cannot handle the task or the settings.
    """
    kind, file = algorithm_class(config.algo), algorithm_table.user_file(config.algo)
    sizes = state_sizes(env, config.state_type)
    if not kind.handles_masks and any(mask is not None for mask in env.action_masks()):
        raise ConfigError(
            f"{config.algo} cannot handle {env.spec.name}, which does not allow every action at every step"
        )
    with file.blamed("its constructor") if file else nullcontext():
        return kind(env.spec, sizes, config)


def _class_from_file(file: UserFile) -> type[Algorithm]:
    found = file.load("class")
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ConfigError(f"algo '{file}': it is no subclass of matrpo.algorithms.algorithm.Algorithm")
    if missing := sorted(found.__abstractmethods__):
        raise ConfigError(f"algo '{file}': the class has no method {', '.join(missing)}")
    return found
