"""The tasks of the package `mpe2`, the Multi-agent Particle Environments: four of them batched, the others wrapped.

Each is there with discrete actions and, its name ending in `-continuous`, with continuous ones. The version may be left
out of a name. What agents observe and do is written down here: listing tasks, and an agent's process, need no `mpe2`,
which loads pygame.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from matrpo.envs.family import NOTHING, Family, KnownTask, both_actions, variant_name, wrong_agents
from matrpo.envs.particle.collect_treasure import CollectTreasureEnv, collect_treasure_spec
from matrpo.envs.particle.particle_env import NUM_MOVES
from matrpo.envs.particle.simple_reference import SimpleReferenceEnv, simple_reference_spec
from matrpo.envs.particle.simple_speaker_listener import SimpleSpeakerListenerEnv, simple_speaker_listener_spec
from matrpo.envs.particle.simple_spread import SimpleSpreadEnv, simple_spread_spec
from matrpo.envs.vector_env import VectorEnv
from matrpo.envs.wrapped.pettingzoo import PettingZooEnv
from matrpo.spaces import ActionSpace, Box, Discrete, TaskSpec

EPISODE_LENGTH = 25


@dataclass(frozen=True)
class _Role:
    """`count` agents with the same observation and action spaces.

    Attributes:
        name: their names are `name_0`, `name_1`, ...
        count: how many.
        observation_size: length of their observations.
        moves: whether they choose among the five movements.
        words: how many words they choose one from to say, if they speak.
    """

    name: str
    count: int
    observation_size: int
    moves: bool = True
    words: int = 0

    def action_space(self, continuous: bool) -> ActionSpace:
        """A `Box` with a component for each movement and word, or a `Discrete` of their combinations."""
        moves = NUM_MOVES if self.moves else 0
        return Box(moves + self.words, 0.0, 1.0) if continuous else Discrete(max(moves, 1) * max(self.words, 1))


@dataclass(frozen=True)
class _Environment:
    """A module of `mpe2`.

    Attributes:
        module: its name.
        description: one line.
        default_agents: N of the module's own defaults.
        roles: the roles of N agents in the order of their ids.
        options: what the module must be told to have N agents; None if N is fixed.
    """

    module: str
    description: str
    default_agents: int
    roles: Callable[[int], tuple[_Role, ...]]
    options: Callable[[int], dict[str, int]] | None = None

    def tasks(self) -> tuple[KnownTask, KnownTask]:
        """The task with discrete and with continuous actions."""
        name, fixed = f"mpe2/{self.module}", self.options is None
        return both_actions(name, self.description, self.default_agents, fixed, self._spec, self._make, in_turn=True)

    def _name(self, continuous: bool) -> str:
        return variant_name(f"mpe2/{self.module}", continuous)

    def _spec(self, num_agents: int, continuous: bool) -> TaskSpec:
        roles, name = self.roles(num_agents), self._name(continuous)
        if not all(role.count for role in roles):
            raise wrong_agents(name, num_agents, f"at least {len(roles)}")
        members = [(role, q) for role in roles for q in range(role.count)]
        return TaskSpec(
            name=name,
            agents=tuple(f"{role.name}_{q}" for role, q in members),
            observation_sizes=tuple(role.observation_size for role, _ in members),
            action_spaces=tuple(role.action_space(continuous) for role, _ in members),
            episode_length=EPISODE_LENGTH,
        )

    def _make(self, num_agents: int, num_envs: int, seed: int, continuous: bool) -> VectorEnv:
        options: dict[str, Any] = dict(self.options(num_agents)) if self.options else {}
        return make_mpe2(self._name(continuous), options | {"continuous_actions": continuous}, num_envs, seed)


def make_mpe2(name: str, options: dict[str, Any], num_envs: int, seed: int) -> PettingZooEnv:
    """Build the package's own environments, stepped one after the other.

    Args:
        name: the task's.
        options: of the module's `parallel_env`, each of which may be left out.
        num_envs: B.
        seed: of everything random in them.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    module = importlib.import_module(name.removesuffix("-continuous").replace("/", ".", 1))
    return PettingZooEnv(name, partial(module.parallel_env, **options), num_envs, seed)


_ENVIRONMENTS = (
    _Environment(
        "simple_adversary_v3",
        "N-1 agents hide from an adversary which landmark they go to",
        3,
        lambda n: (_Role("adversary", 1, 4 * n - 4), _Role("agent", n - 1, 4 * n - 2)),
        lambda n: {"N": n - 1},
    ),
    _Environment(
        "simple_crypto_v3",
        "Alice sends Bob a message with their key, Eve tries to read it",
        3,
        lambda _: (_Role("eve", 1, 4, False, 4), _Role("bob", 1, 8, False, 4), _Role("alice", 1, 8, False, 4)),
    ),
    _Environment(
        "simple_formation_v1",
        "N agents stand in a circle around a landmark",
        4,
        lambda n: (_Role("agent", n, 6),),
        lambda n: {"N": n},
    ),
    _Environment(
        "simple_line_v1",
        "N agents stand in a line between two landmarks",
        4,
        lambda n: (_Role("agent", n, 8),),
        lambda n: {"N": n},
    ),
    _Environment(
        "simple_push_v3",
        "one goes to a landmark, the other pushes it away",
        2,
        lambda _: (_Role("adversary", 1, 8), _Role("agent", 1, 19)),
    ),
    _Environment(
        "simple_tag_v3",
        "N-1 adversaries hunt a faster agent",
        4,
        lambda n: (_Role("adversary", n - 1, 2 * n + 8), _Role("agent", 1, 2 * n + 6)),
        lambda n: {"num_adversaries": n - 1},
    ),
    _Environment("simple_v3", "one agent goes to a landmark", 1, lambda _: (_Role("agent", 1, 4),)),
    _Environment(
        "simple_world_comm_v3",
        "a leader tells adversaries how to hunt agents that look for food and hide in forests",
        6,
        lambda _: (_Role("leadadversary", 1, 34, words=4), _Role("adversary", 3, 34), _Role("agent", 2, 28)),
    ),
)

_BATCHED = (
    both_actions(
        "mpe2/simple_spread_v3",
        "N agents cover N landmarks, all are paid; batched",
        3,
        False,
        simple_spread_spec,
        SimpleSpreadEnv,
    ),
    both_actions(
        "mpe2/simple_reference_v3",
        "each tells the other where to go; batched",
        2,
        True,
        lambda _num_agents, continuous: simple_reference_spec(continuous),
        lambda _num_agents, num_envs, seed, continuous: SimpleReferenceEnv(num_envs, seed, continuous),
    ),
    both_actions(
        "mpe2/simple_speaker_listener_v4",
        "one tells the other where to go; batched",
        2,
        True,
        lambda _num_agents, continuous: simple_speaker_listener_spec(continuous),
        lambda _num_agents, num_envs, seed, continuous: SimpleSpeakerListenerEnv(num_envs, seed, continuous),
    ),
    both_actions(
        "mpe2/collect_treasure_v1",
        "collectors bring treasures to the deposits of their colours; batched",
        8,
        False,
        collect_treasure_spec,
        CollectTreasureEnv,
    ),
)
"""Tasks that step all environments at once in NumPy, as the package's own would; the others wrap the package."""

_WRAPPED = tuple(environment.tasks() for environment in _ENVIRONMENTS)
_TASKS = tuple(task for pair in _BATCHED + _WRAPPED for task in pair)
_BY_SHORT_NAME = {re.sub(r"_v\d+", "", task.name): task for task in _TASKS}

FAMILY = Family(
    pattern="mpe2/<environment>[-continuous]",
    description="multi-agent particle environments",
    needs=NOTHING,
    tasks=_TASKS,
    search=_BY_SHORT_NAME.get,
)
