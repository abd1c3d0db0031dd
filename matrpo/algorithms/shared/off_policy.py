"""The base of off-policy algorithms: exploration, replay buffer, target networks, update frequency, checkpoints."""

from __future__ import annotations

import copy
import functools
import math
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from matrpo.algorithms.shared.algorithm import Algorithm, LearnerState, UpdateReport, masks_refused
from matrpo.algorithms.shared.replay import Batch, Layout, Replay
from matrpo.envs.central import CentralStep
from matrpo.envs.vector_env import ActorInput
from matrpo.errors import ConfigError
from matrpo.networks.critic import ValueLoss
from matrpo.networks.device import ActingNetworks
from matrpo.networks.optimizer import step_along
from matrpo.networks.state import load_module, load_optimizer, module_tensors, optimizer_tensors, under
from matrpo.settings.config import Config
from matrpo.spaces import ActionSpace, Box, TaskSpec


class OffPolicy(Algorithm):
    """Fills a replay buffer and learns from minibatches of it, `updates_per_step` per vectorised environment step.

    The first `warmup_steps` environment steps take random actions, and nothing is learned before they are over. A
    subclass fills `actors`, `critics` and `optimizers` in its `__init__`, in which it calls `make_target`; its networks
    are moved to `device` before.

    Attributes:
        actors: each agent's network, which learns; `acting` has those by which it acts.
        critics: every other network, by name.
        optimizers: by name.
        loss: of critics.
    """

    settings_read = Algorithm.settings_read | {
        *("hidden_sizes", "feature_normalization", "activation", "orthogonal_initialization"),
        *("critic_lr", "huber_delta", "max_grad_norm", "lr_decay"),
        *("buffer_size", "batch_size", "warmup_steps", "updates_per_step", "n_step", "polyak"),
    }
    actors: list[nn.Module]

    def __init__(self, spec: TaskSpec, state_sizes: tuple[int, ...], config: Config) -> None:
        if config.recurrent_layers:
            raise ConfigError(f"{config.algo}: its networks have no memory: leave recurrent_layers at 0")
        if config.state_type != "ep":
            raise ConfigError(f"{config.algo}: its critic sees one state for all agents: leave state_type at ep")
        if config.buffer_size < config.num_envs:
            raise ConfigError(f"buffer_size {config.buffer_size}: expected at least num_envs, {config.num_envs}")
        super().__init__(spec, state_sizes, config)
        self.critics: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Adam] = {}
        self._followers: list[tuple[nn.Module, nn.Module]] = []
        self.loss = ValueLoss(config.huber_delta)
        self._layout = Layout(spec, state_sizes[0], self.handles_masks)
        self._replay: Replay | None = None
        self._before: CentralStep | None = None
        self._steps = 0
        self._updates = 0
        self._reward_scale = 1.0

    @abstractmethod
    def choose(self, seen: Sequence[ActorInput], generator: torch.Generator, explore: bool) -> list[Tensor]:
        """Each agent's actions, (B, width), without gradients.

        Args:
            seen: by each agent.
            generator: source of what is random in it.
            explore: whether to explore, or to do what is thought best.
        """

    @abstractmethod
    def learn(self, batch: Batch) -> dict[str, float]:
        """Update the networks on one minibatch; the metrics to report."""

    @property
    def replay(self) -> Replay:
        """The replay buffer; it exists once `open_files` was called."""
        assert self._replay is not None
        return self._replay

    @property
    def acting(self) -> list[nn.Module]:
        """Each agent's network on the processor, by which it acts: as of the end of the last update."""
        return self._acting.networks

    @functools.cached_property
    def _acting(self) -> ActingNetworks[nn.Module]:
        return ActingNetworks(self.actors)

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return self._steps

    @property
    def updates(self) -> int:
        """Minibatches learned from so far, the present one included."""
        return self._updates

    def open_files(self, folder: Path, resume: bool) -> None:
        """Open the replay buffer's file."""
        config = self.config
        # A step leaves at most two entries, and what is written past the newest checkpoint may be thrown away.
        kept = max(config.checkpoints_kept, 2) + 1
        slack = 2 * kept * config.checkpoint_every * config.rollout_length
        capacity = config.buffer_size // config.num_envs
        path, layout = folder / "replay.bin", self._layout
        self._replay = Replay(path, config.num_envs, capacity, slack, layout, resume, self.device)

    def act(self, step: CentralStep) -> np.ndarray:
        """Choose actions at random during the warm-up, by the policies with exploration after it."""
        first = self._before is None
        if first and step.states[0].truncated.all():  # the environment was reset; otherwise a run goes on
            self.replay.begin(self._layout.joint_observations(step))
        self._before = step
        if not self.handles_masks and any(agent.action_mask is not None for agent in step.agents):
            raise masks_refused(self.config.algo, self.spec.name)
        seen = [agent.seen for agent in step.agents]
        if self._steps < self.config.warmup_steps:
            count, pairs = len(seen[0].observation), zip(self.spec.action_spaces, masks_of(seen), strict=True)
            return _joint([random_actions(*pair, count, self.generator) for pair in pairs])
        return _joint(self.choose(seen, self.generator, explore=True))

    def observe(self, step: CentralStep) -> None:
        assert self._before is not None
        seen = step.states[0]
        observations = self._layout.joint_observations(step)
        final = self._layout.final_observations(self._before, step)
        self.replay.add(seen.joint_action, seen.reward, seen.terminated, seen.truncated, observations, final)
        self._steps += len(observations)
        self._reward_scale = float(seen.reward_scale[0])

    def update(self, iteration: int) -> UpdateReport:
        """Learn from minibatches of the replay buffer."""
        config = self.config
        self.set_learning_rates(iteration, self.optimizers.values())
        done = self._steps // config.samples
        count = self._updates_due(done) - self._updates_due(done - 1)
        reports = []
        for _ in range(count):
            self._updates += 1
            batch = self.replay.sample(config.batch_size, config.n_step, config.gamma, self.generator)
            batch.rewards.div_(self._reward_scale)
            reports.append(self.learn(batch))
        self._acting.refresh()
        means = {name: float(np.mean([report[name] for report in reports])) for name in (reports or [{}])[0]}
        return UpdateReport({"updates": count, **means}, [{} for _ in self.actors])

    def remark(self) -> str | None:
        """That nothing will be learned, if the run is over before the first update is due."""
        config = self.config
        if self._updates_due(config.iterations):
            return None
        steps = config.iterations * config.samples
        return (
            f"{config.algo} will learn nothing in {steps} steps: the first warmup_steps, {config.warmup_steps}, act at "
            f"random, and updates_per_step is {config.updates_per_step}"
        )

    def _updates_due(self, iterations: int) -> int:
        """Updates due after so many iterations: fractions of one are carried over to the next.

        The iteration in which the warm-up ends is the first whose steps count.
        """
        config = self.config
        idle = max(0, math.ceil(Fraction(config.warmup_steps, config.samples)) - 1)
        rate = Fraction(str(config.updates_per_step))
        return math.floor(rate * config.rollout_length * max(0, iterations - idle))

    def descend(self, name: str, loss: Tensor) -> None:
        """One gradient descent step of an optimiser on a scalar loss, with respect to its own parameters alone."""
        optimizer = self.optimizers[name]
        parameters = optimizer.param_groups[0]["params"]
        step_along(optimizer, list(torch.autograd.grad(loss, parameters)), self.config.max_grad_norm)

    def make_target(self, name: str, network: nn.Module) -> nn.Module:
        """A target network, a copy that `move_targets` updates; it becomes one of `critics`."""
        target = copy.deepcopy(network).requires_grad_(False)
        self.critics[f"target_{name}"] = target
        self._followers.append((target, network))
        return target

    @torch.no_grad()
    def move_targets(self) -> None:
        """Polyak-average every target network: theta^ = tau theta + (1 - tau) theta^ with tau = `polyak`."""
        for target, network in self._followers:
            for slow, fast in zip(target.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, self.config.polyak)

    def actor(self, num_envs: int) -> _Actors:  # noqa: ARG002
        """The agents, each with its own network and observations."""
        return _Actors(self)

    def state_dict(self) -> LearnerState:
        """Networks, optimisers, counters and the generator's state; what the buffer holds is in its file."""
        tensors = {
            "generator": self.generator.get_state(),
            "progress": torch.tensor([self._steps, self._updates]),
            "reward_scale": torch.tensor(self._reward_scale, dtype=torch.float64),
            **{f"replay.{name}": value for name, value in self.replay.state_dict().items()},
        }
        for name, module in self.critics.items():
            tensors |= module_tensors(name, module)
        for name, optimizer in self.optimizers.items():
            tensors |= optimizer_tensors(f"optimizer.{name}", optimizer)
        return LearnerState(tensors, [module_tensors("policy", actor) for actor in self.actors])

    def load_state_dict(self, state: LearnerState) -> None:
        """Restore `state_dict`; without `open_files` the agents can act, but not learn."""
        for name, module in self.critics.items():
            load_module(name, module, state.trainer)
        for name, optimizer in self.optimizers.items():
            load_optimizer(f"optimizer.{name}", optimizer, state.trainer)
        for actor, tensors in zip(self.actors, state.agents, strict=True):
            load_module("policy", actor, tensors)
        self._acting.refresh()
        if self._replay is not None:
            self._replay.load_state_dict(under(state.trainer, "replay."))
        self.generator.set_state(state.trainer["generator"])
        self._steps, self._updates = state.trainer["progress"].tolist()
        self._reward_scale = float(state.trainer["reward_scale"])


class _Actors:
    """The deployed policies of all agents."""

    def __init__(self, algorithm: OffPolicy) -> None:
        self._algorithm = algorithm

    def act(self, seen: Sequence[ActorInput], generator: torch.Generator, deterministic: bool) -> np.ndarray:
        """As `acting.Actors.act`; if not deterministic, it explores as in training."""
        return _joint(self._algorithm.choose(seen, generator, explore=not deterministic))


def observations_of(seen: Sequence[ActorInput]) -> list[Tensor]:
    """Each agent's observations, (B, O_q)."""
    return [torch.from_numpy(np.ascontiguousarray(each.observation)) for each in seen]


def masks_of(seen: Sequence[ActorInput]) -> list[Tensor | None]:
    """Each agent's action mask, (B, n), or None."""
    masks = [each.action_mask for each in seen]
    return [None if mask is None else torch.from_numpy(np.ascontiguousarray(mask)) for mask in masks]


def random_actions(space: ActionSpace, mask: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
    """Actions drawn uniformly, from those that are allowed; of a `Box`, within its bounds. (count, width)."""
    if isinstance(space, Box):
        return -1.0 + 2.0 * torch.rand(count, space.size, generator=generator)
    weights = torch.ones(count, space.parameters) if mask is None else mask.float()
    factors = torch.split(weights, list(space.sizes), dim=1)
    return torch.cat([torch.multinomial(allowed, 1, generator=generator) for allowed in factors], dim=1).float()


def _joint(actions: Sequence[Tensor]) -> np.ndarray:
    joint: np.ndarray = torch.cat(list(actions), dim=1).numpy()
    return joint
