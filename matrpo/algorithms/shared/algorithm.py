"""The interface of centralised training: one object acts and learns for all agents, in one process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from matrpo import random_streams
from matrpo.envs.central import CentralStep
from matrpo.envs.vector_env import ActorInput
from matrpo.errors import ConfigError
from matrpo.networks.state import to_tensors
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings import algorithm_names
from matrpo.settings.config import Config
from matrpo.spaces import TaskSpec


class JointActor(Protocol):
    """The deployed policies of all agents, which act in B environments and may be recurrent."""

    def act(self, seen: Sequence[ActorInput], generator: torch.Generator, deterministic: bool) -> np.ndarray:
        """As `acting.Actors.act`."""


@dataclass(frozen=True)
class UpdateReport:
    """The metrics of one update.

    Attributes:
        trainer: of the whole.
        agents: of each agent.
    """

    trainer: dict[str, Any]
    agents: list[dict[str, Any]]


@dataclass(frozen=True)
class LearnerState:
    """The checkpoint of an algorithm: everything that the next iteration depends on.

    Attributes:
        trainer: what is needed to go on learning.
        agents: what each agent needs to act.
    """

    trainer: dict[str, Tensor]
    agents: list[dict[str, Tensor]]


def masks_refused(algo: str, task: str) -> ConfigError:
    """The error that an algorithm without `handles_masks` cannot train on a task that gives masks."""
    return ConfigError(f"{algo} cannot handle {task}, which does not allow every action at every step")


class Algorithm(ABC):
    """Base class of the algorithms that train centrally.

    An iteration is `act` and `observe` T (`rollout_length`) times, then `update`. A subclass builds its networks in
    `__init__`, and raises `ConfigError` there for tasks and settings that it cannot handle.

    Args:
        spec: the task's agents and spaces.
        state_sizes: length of each state that centralised critics see: one for all agents, or one for each.
        config: the run's settings.

    Attributes:
        handles_masks: whether it can train on tasks that do not allow every action at every step.
        settings_read: names of the settings that it reads; others are refused on the command line.
        generator: of everything random in it but the environment; on the processor.
        device: where networks learn; `act` and `actor` work on the processor.
    """

    handles_masks = True
    settings_read: ClassVar[frozenset[str]] = algorithm_names.READ_BY_ALL

    def __init__(self, spec: TaskSpec, state_sizes: tuple[int, ...], config: Config) -> None:
        self.spec = spec
        self.state_sizes = state_sizes
        self.config = config
        self.device = torch.device(config.device)
        self.generator = torch.Generator().manual_seed(random_streams.learner(config.seed, spec.num_agents))

    def open_files(self, folder: Path, resume: bool) -> None:  # noqa: B027 (most have no files)
        """Open the files of what is too large for a checkpoint (a replay buffer), before training begins or resumes.

        Args:
            folder: the trainer's.
            resume: whether a checkpoint is loaded next, to go on with what is there.

        Raises:
            ConfigError: what is there does not fit.
            StorageError: a file cannot be written.
        """

    def remark(self) -> str | None:
        """What a user should know of the run before training begins, in one line; None if there is nothing."""
        return None

    def update_order(self) -> list[int]:
        """The order in which agents update one after another: a new random one each time, unless it is fixed."""
        if self.config.agent_order == "fixed":
            return list(range(self.spec.num_agents))
        order: list[int] = torch.randperm(self.spec.num_agents, generator=self.generator).tolist()
        return order

    def set_learning_rates(self, iteration: int, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """With `lr_decay`, lower the optimisers' learning rates linearly, from what they began with to nothing."""
        if self.config.lr_decay:
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * self.config.part_left(iteration)

    @abstractmethod
    def act(self, step: CentralStep) -> np.ndarray:
        """Choose the next joint action and record the observations that it was chosen on.

        Returns:
            (B, W) float32; components of a `Box` in half ranges (`TaskSpec.task_units`).
        """

    @abstractmethod
    def observe(self, step: CentralStep) -> None:
        """Record the outcome of the last joint action: rewards, ends of episodes, next observations."""

    @abstractmethod
    def update(self, iteration: int) -> UpdateReport:
        """Update policies and critics on the recorded transitions; iterations count from 1."""

    @abstractmethod
    def actor(self, num_envs: int) -> JointActor:
        """The deployed policies of all agents."""

    @abstractmethod
    def state_dict(self) -> LearnerState:
        """The checkpoint: all that the next iteration depends on, but files of `open_files`, on the disk by then."""

    @abstractmethod
    def load_state_dict(self, state: LearnerState) -> None:
        """Restore `state_dict`.

        Raises:
            ConfigError: the state is of networks of other sizes.
        """

    def load_checkpoint(self, run: RunDirectory, iteration: int) -> None:
        """Restore what `CentralTraining` saved of this algorithm.

        Raises:
            ConfigError: there is no such checkpoint, or it does not fit.
        """

        def tensors(pair: tuple[Mapping[str, np.ndarray], Any]) -> dict[str, Tensor]:
            return to_tensors(pair[0])

        agents = [tensors(run.agent(q).load_checkpoint(iteration)) for q in range(run.num_agents)]
        self.load_state_dict(LearnerState(tensors(run.trainer.load_checkpoint(iteration)), agents))
