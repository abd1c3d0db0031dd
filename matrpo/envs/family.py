"""Families of tasks: names, requirements and factories of environments. N: agents, B: environments.

A new family is a module with a `FAMILY`, and a line in `matrpo/envs/registry.py`. The module is imported when one of
its tasks is named and whenever tasks are listed: it imports what it wraps only when an environment is made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from matrpo.envs.conformance.check import Wrong
from matrpo.envs.conformance.guarded import GuardedEnv, check_env
from matrpo.envs.vector_env import VectorEnv
from matrpo.errors import ConfigError
from matrpo.spaces import TaskSpec


@dataclass(frozen=True)
class Requirement:
    """What must be installed for a family's tasks, besides matrpo itself.

    Attributes:
        text: a few words.
        problem: what is missing and what to do, in one line; None if nothing is. It imports nothing.
    """

    text: str
    problem: Callable[[], str | None]


NOTHING = Requirement("nothing", lambda: None)
"""The requirement of tasks that come with matrpo."""


def packages(install: str, *modules: str) -> Requirement:
    """The requirement that these top-level modules can be imported.

    Args:
        install: what `pip install` brings them with, such as `matrpo[mamujoco]`.
        modules: their names.
    """

    def problem() -> str | None:
        missing = [module for module in modules if find_spec(module) is None]
        return f"not installed: {', '.join(missing)}; pip install '{install}'" if missing else None

    return Requirement(install, problem)


class Task(ABC):
    """A task: its agents and spaces, and the factory of its environments.

    Attributes:
        name: as `--task` gives it, in full.
        in_turn: whether its environments are stepped one after the other, so that `WorkerEnv` can deal them out.
        own_process: whether each of its environments is a process of its own.
    """

    name: str
    in_turn: bool
    own_process: bool = False

    @abstractmethod
    def spec(self, num_agents: int | None) -> TaskSpec:
        """Agents and spaces, with `num_agents` agents or the task's default number.

        Raises:
            ConfigError: the task cannot have so many agents.
        """

    @abstractmethod
    def make(self, num_agents: int | None, num_envs: int, seed: int) -> VectorEnv:
        """Build `num_envs` environments, whose `spec` is `self.spec(num_agents)`.

        Raises:
            ConfigError: the task cannot have so many agents, or something that it needs is missing.
        """


@dataclass(frozen=True)
class KnownTask(Task):
    """A task whose agents and spaces are known without building it.

    Attributes:
        name: as `--task` gives it, in full.
        description: one line.
        default_agents: N if `--agents` is not given.
        fixed: whether the task has exactly that many agents.
        describe: the spec for N agents; a `ConfigError` if there can be no such number.
        build: the environments, given N, B and the seed.
        in_turn: whether they are stepped one after the other.
        own_process: whether each is a process of its own.
    """

    name: str
    description: str
    default_agents: int
    fixed: bool
    describe: Callable[[int], TaskSpec]
    build: Callable[[int, int, int], VectorEnv]
    in_turn: bool = False
    own_process: bool = False

    def spec(self, num_agents: int | None) -> TaskSpec:
        return self.describe(self._resolve(num_agents))

    def make(self, num_agents: int | None, num_envs: int, seed: int) -> VectorEnv:
        num_agents = self.spec(num_agents).num_agents
        return self.build(num_agents, num_envs, seed)

    def _resolve(self, num_agents: int | None) -> int:
        if num_agents is None:
            return self.default_agents
        if self.fixed and num_agents != self.default_agents:
            raise wrong_agents(self.name, num_agents, f"exactly {self.default_agents}")
        if num_agents < 1:
            raise wrong_agents(self.name, num_agents, "at least 1")
        return num_agents


def fixed_task(spec: TaskSpec, description: str, build: Callable[[str, int, int], VectorEnv]) -> KnownTask:
    """A task for one number of agents.

    Args:
        spec: its agents and spaces.
        description: one line.
        build: the environments, given the task's name, B and the seed.
    """
    return KnownTask(
        spec.name,
        description,
        default_agents=spec.num_agents,
        fixed=True,
        describe=lambda _num_agents: spec,
        build=lambda _num_agents, num_envs, seed: build(spec.name, num_envs, seed),
    )


def variant_name(name: str, continuous: bool) -> str:
    """The name of a task that exists with discrete and with continuous actions."""
    return f"{name}-continuous" if continuous else name


def both_actions(
    name: str,
    description: str,
    default_agents: int,
    fixed: bool,
    describe: Callable[[int, bool], TaskSpec],
    build: Callable[[int, int, int, bool], VectorEnv],
    in_turn: bool = False,
) -> tuple[KnownTask, KnownTask]:
    """A task with discrete actions and, its name ending in `-continuous`, with continuous ones.

    Args:
        name, description, default_agents, fixed, in_turn: as of a `KnownTask`.
        describe: the spec, under its `variant_name`, for N and whether actions are continuous.
        build: the environments, given N, B, the seed and whether actions are continuous.
    """

    def one(continuous: bool) -> KnownTask:
        return KnownTask(
            variant_name(name, continuous),
            description,
            default_agents,
            fixed,
            describe=lambda num_agents: describe(num_agents, continuous),
            build=lambda num_agents, num_envs, seed: build(num_agents, num_envs, seed, continuous),
            in_turn=in_turn,
        )

    return one(False), one(True)


@dataclass(frozen=True)
class ForeignTask(Task):
    """A third-party task: it is built to know its agents and spaces, and checked against the interface.

    Attributes:
        name: as `--task` gives it, in full.
        build: the environments, given N or None, B and the seed.
    """

    name: str
    build: Callable[[int | None, int, int], VectorEnv]
    in_turn = True

    def spec(self, num_agents: int | None) -> TaskSpec:
        env = self.make(num_agents, num_envs=1, seed=0)
        try:
            check_env(env, self.name)
        finally:
            GuardedEnv(env, self.name).close()
        return env.spec

    def make(self, num_agents: int | None, num_envs: int, seed: int) -> VectorEnv:
        try:
            env = self.build(num_agents, num_envs, seed)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"task {self.name!r}: {Wrong.raised('making it', error)}") from error
        if num_agents not in (None, env.spec.num_agents):
            env.close()
            raise wrong_agents(self.name, num_agents, f"exactly {env.spec.num_agents}")
        return env


@dataclass(frozen=True)
class Family:
    """A group of tasks with one pattern of names and one requirement.

    Attributes:
        pattern: how their names are formed.
        description: what they are, a few words.
        needs: what must be installed.
        tasks: those that can be listed.
        search: the task of any other name that the family understands, given the name; None if it is none.
    """

    pattern: str
    description: str
    needs: Requirement
    tasks: tuple[KnownTask, ...] = ()
    search: Callable[[str], Task | None] = lambda _name: None

    def find(self, name: str) -> Task | None:
        """The task called `name`, if there is one."""
        return next((task for task in self.tasks if task.name == name), None) or self.search(name)


def wrong_agents(task: str, num_agents: int | None, expected: str) -> ConfigError:
    """The error that a task cannot have so many agents, but, say, `exactly 2`."""
    return ConfigError(f"bad value {num_agents} for 'agents': task {task!r} has {expected}")
