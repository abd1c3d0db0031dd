"""What on-policy algorithms share: rollouts of all agents, critics, advantages. A subclass improves the policies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matrpo.agent import make_critic
from matrpo.algorithms.algorithm import Algorithm, LearnerState, UpdateReport
from matrpo.config import Config, ConfigError
from matrpo.critic import Critic
from matrpo.distributions import Block
from matrpo.envs.central import CentralStep
from matrpo.policy import Actors, JointPolicy
from matrpo.rollout import Rollout, Values
from matrpo.sequences import Sequences, side_by_side
from matrpo.spaces import ActionSpace, TaskSpec
from matrpo.state import load_module, load_optimizer, module_tensors, optimizer_tensors


@dataclass(frozen=True)
class Samples:
    """The M samples of an iteration that a policy is improved on.

    Attributes:
        observations: (M, O).
        actions: (M, W), what the policy's owner did.
        action_masks: (M, n), or None where every action is always available.
        alive: (M,) booleans: whether what the owner did could matter.
        sequences: how the samples follow one another, for a policy with a memory.
    """

    observations: Tensor
    actions: Tensor
    action_masks: Tensor | None
    alive: Tensor
    sequences: Sequences | None

    def head(self, policy: JointPolicy) -> Block:
        """The distributions that a policy acts by on these samples."""
        return policy.own_head(self.observations, self.action_masks, self.sequences)

    def log_prob(self, head: Block) -> Tensor:
        """Log probabilities of the actions under such distributions. (M,)."""
        return head.log_prob(self.actions.unsqueeze(1)).squeeze(1)

    def select(self, rows: Tensor, sequences: Sequences | None) -> Samples:
        """Some of the samples, and how these follow one another."""
        masks = None if self.action_masks is None else self.action_masks[rows]
        return Samples(self.observations[rows], self.actions[rows], masks, self.alive[rows], sequences)


def merge(parts: Sequence[Samples], length: int) -> Samples:
    """The samples of several agents as if they were one agent's in more environments.

    Args:
        parts: each agent's.
        length: T.
    """
    masks = [part.action_masks for part in parts if part.action_masks is not None]
    sequences = [part.sequences for part in parts if part.sequences is not None]
    return Samples(
        side_by_side([part.observations for part in parts], length),
        side_by_side([part.actions for part in parts], length),
        side_by_side(masks, length) if masks else None,
        side_by_side([part.alive for part in parts], length),
        Sequences.merge(sequences) if sequences else None,
    )


class Learner:
    """A policy and what improves it.

    Args:
        policy: its parameters change.
        config: the run's settings.
        generator: of the order of samples.
    """

    def __init__(self, policy: JointPolicy, config: Config, generator: torch.Generator) -> None:
        self.policy = policy
        self.config = config
        self.generator = generator
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=config.actor_lr, eps=1e-5, fused=True)

    def ascend(self, objective: Tensor) -> None:
        """One step up the gradient of a scalar."""
        self.optimizer.zero_grad()
        (-objective).backward()  # type: ignore[no-untyped-call]
        if self.config.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm)
        self.optimizer.step()


class OnPolicy(Algorithm):
    """Samples with its policies, estimates advantages with its critics, improves the policies, then fits the critics.

    Each agent has a policy of its own observation; with `share_parameters` they have one in common.

    Attributes:
        central_critic: whether one critic sees the state and the team's reward, or each agent has one of its own
            observation and reward.
        policies: each agent's.
    """

    central_critic = True

    def __init__(self, spec: TaskSpec, state_sizes: tuple[int, ...], config: Config) -> None:
        super().__init__(spec, state_sizes, config)
        self._learners = self._make_learners()
        self.policies = [self.learner(q).policy for q in range(spec.num_agents)]
        sizes = state_sizes if self.central_critic else spec.observation_sizes
        if len(set(sizes)) > 1 and (self.central_critic or config.share_parameters):
            raise ConfigError(f"{spec.name}: one critic cannot see states of different sizes, {sizes}")
        separate = not (self.central_critic or config.share_parameters)
        self._critics = [make_critic(size, config, self.generator) for size in (sizes if separate else sizes[:1])]
        self._actors = Actors(self.policies, config.num_envs)
        state_size = self.policies[0].network.state_size
        self._rollouts = [self._make_rollout(q, spec, state_size) for q in range(spec.num_agents)]
        self._views = self._rollouts
        if self.central_critic:
            view = TaskSpec(spec.name, ("all",), sizes[:1], spec.action_spaces)
            self._views = [self._make_rollout(0, view, state_size) for _ in sizes]
        self._memories = [self.critic(v).initial_state(config.num_envs) for v in range(len(self._views))]
        self._alive = torch.ones(config.rollout_length, config.num_envs, spec.num_agents, dtype=torch.bool)
        self._ended = torch.zeros(config.num_envs, dtype=torch.bool)

    @abstractmethod
    def improve(self, samples: list[Samples], advantages: list[Tensor]) -> list[dict[str, Any]]:
        """Change the policies.

        Args:
            samples: each agent's.
            advantages: for each agent, (M,), of zero mean and unit variance over the samples where it is alive.

        Returns:
            What to report of each agent.
        """

    def learner(self, agent: int) -> Learner:
        """What improves an agent's policy."""
        return self._learners[0 if self.config.share_parameters else agent]

    def critic(self, view: int) -> Critic:
        """The critic of a view: of the state, of an agent's state, or of an agent's observation."""
        return self._critics[view % len(self._critics)]

    def act(self, step: CentralStep) -> np.ndarray:
        """Choose the next actions, and record what they are chosen on."""
        t = self._rollouts[0].t % self.config.rollout_length
        self._alive[t] = torch.from_numpy(step.alive)
        for rollout, actor, seen in zip(self._rollouts, self._actors.members, step.agents, strict=True):
            rollout.add_observation(seen, actor.state)
        if self.central_critic:
            for view, seen in zip(self._views, step.states, strict=True):
                view.add_observation(seen, self._actors.members[0].state)
        ended = np.stack([seen.ended for seen in step.agents], axis=1)
        observations, masks = zip(*((seen.observation, seen.action_mask) for seen in step.agents), strict=True)
        return self._actors.act(observations, masks, ended, self.generator, deterministic=False)

    def observe(self, step: CentralStep) -> None:
        """Record what the last actions brought about."""
        for rollout, seen in zip(self._rollouts, step.agents, strict=True):
            rollout.add_outcome(seen)
        if self.central_critic:
            for view, seen in zip(self._views, step.states, strict=True):
                view.add_outcome(seen)
        self._ended = torch.from_numpy(step.states[0].ended)

    def update(self, iteration: int) -> UpdateReport:
        """Estimate advantages, improve the policies, fit the critics: the order of HARL's Algorithms 3 to 5."""
        config = self.config
        self._set_learning_rates(iteration)
        values = [
            view.values(self.critic(v), memory)
            for v, (view, memory) in enumerate(zip(self._views, self._memories, strict=True))
        ]
        pairs = [
            view.advantages(value, config.gamma, config.gae_lambda)
            for view, value in zip(self._views, values, strict=True)
        ]
        samples = [self._samples(q) for q in range(self.spec.num_agents)]
        estimates = [pairs[q % len(pairs)][0] for q in range(self.spec.num_agents)]
        advantages = [_standardized(*pair) for pair in zip(estimates, samples, strict=True)]
        reports = self.improve(samples, advantages)
        with torch.no_grad():
            for report, policy, part in zip(reports, self.policies, samples, strict=True):
                report["entropy"] = float(part.head(policy).entropy()[part.alive].mean())
        losses = self._fit_critics([target for _, target in pairs], values)
        explained = [1.0 - float(error.var() / target.var().clamp_min(1e-12)) for error, target in pairs]
        self._forget_ended(values)
        trainer = {"critic_loss": float(np.mean(losses)), "explained_variance": float(np.mean(explained))}
        return UpdateReport(trainer, reports)

    def player(self, num_envs: int) -> Actors:
        """The agents, each with its own policy and observations."""
        return Actors(self.policies, num_envs)

    def state_dict(self) -> LearnerState:
        """Networks, optimisers, memories and the generator's state."""
        tensors = {"generator": self.generator.get_state()}
        for index, learner in enumerate(self._learners):
            tensors |= optimizer_tensors(f"policy_optimizer.{index}", learner.optimizer)
        for index, critic in enumerate(self._critics):
            tensors |= module_tensors(f"critic.{index}", critic)
            tensors |= optimizer_tensors(f"critic_optimizer.{index}", critic.optimizer)
        tensors |= {f"memory.critic.{v}": memory for v, memory in enumerate(self._memories)}
        agents = [
            module_tensors("policy", policy) | {"memory": actor.state}
            for policy, actor in zip(self.policies, self._actors.members, strict=True)
        ]
        return LearnerState(tensors, agents)

    def load_state_dict(self, state: LearnerState) -> None:
        """Restore `state_dict`; memories are of as many environments as they were saved with."""
        for index, learner in enumerate(self._learners):
            load_optimizer(f"policy_optimizer.{index}", learner.optimizer, state.trainer)
        for index, critic in enumerate(self._critics):
            load_module(f"critic.{index}", critic, state.trainer)
            load_optimizer(f"critic_optimizer.{index}", critic.optimizer, state.trainer)
        self._memories = [state.trainer[f"memory.critic.{v}"] for v in range(len(self._memories))]
        for policy, actor, tensors in zip(self.policies, self._actors.members, state.agents, strict=True):
            load_module("policy", policy, tensors)
            actor.state = tensors["memory"]
        self.generator.set_state(state.trainer["generator"])

    def _make_learners(self) -> list[Learner]:
        spec, config = self.spec, self.config
        kinds = list(zip(spec.observation_sizes, spec.action_spaces, strict=True))
        if config.share_parameters and len(set(kinds)) > 1:
            raise ConfigError(f"share_parameters: the agents of {spec.name} differ in what they see or do")
        kinds = kinds[:1] if config.share_parameters else kinds
        return [Learner(self._make_policy(*kind), config, self.generator) for kind in kinds]

    def _make_policy(self, observation_size: int, space: ActionSpace) -> JointPolicy:
        config = self.config
        alone = TaskSpec(self.spec.name, ("agent",), (observation_size,), (space,))
        return JointPolicy(
            0,
            alone,
            config.hidden_sizes,
            config.activation,
            config.initial_log_std,
            self.generator,
            config.recurrent_layers,
            config.feature_normalization,
            config.orthogonal_initialization,
        )

    def _make_rollout(self, agent: int, spec: TaskSpec, state_size: int) -> Rollout:
        config = self.config
        chunk_length = config.chunk_length if state_size else 1
        return Rollout(agent, spec, config.rollout_length, config.num_envs, state_size, chunk_length)

    def _samples(self, agent: int) -> Samples:
        rollout = self._rollouts[agent]
        actions = rollout.joint_actions[:, self.spec.action_slices[agent]]
        alive = self._alive[:, :, agent].flatten()
        return Samples(rollout.observations, actions, rollout.action_masks, alive, rollout.sequences)

    def _fit_critics(self, targets: list[Tensor], values: list[Values]) -> list[float]:
        """Fit each critic on all its views; the losses."""
        config, count = self.config, len(self._critics)
        losses = []
        for index, critic in enumerate(self._critics):
            views, own_values = self._views[index::count], values[index::count]
            parts = [view.critic_sequences(value) for view, value in zip(views, own_values, strict=True)]
            sequences = [part for part in parts if part is not None]
            losses.append(
                critic.fit(
                    side_by_side([view.observations for view in views], config.rollout_length),
                    side_by_side(targets[index::count], config.rollout_length),
                    config.critic_epochs,
                    config.critic_batch,
                    Sequences.merge(sequences) if sequences else None,
                )
            )
        return losses

    def _forget_ended(self, values: list[Values]) -> None:
        """Carry memories over to the next iteration, but not those of episodes that are over."""
        ended = self._ended.unsqueeze(1)
        self._memories = [value.states[-1].masked_fill(ended, 0.0) for value in values]
        for actor in self._actors.members:
            actor.state = actor.state.masked_fill(ended, 0.0)

    def _set_learning_rates(self, iteration: int) -> None:
        if not self.config.lr_decay:
            return
        left = 1.0 - (iteration - 1) / self.config.iterations
        for learner in self._learners:
            learner.optimizer.param_groups[0]["lr"] = self.config.actor_lr * left
        for critic in self._critics:
            critic.optimizer.param_groups[0]["lr"] = self.config.critic_lr * left


def _standardized(advantages: Tensor, samples: Samples) -> Tensor:
    """Advantages of zero mean and unit variance over the samples that count. (M,)."""
    counted = advantages[samples.alive]
    return (advantages - counted.mean()) / (counted.std() + 1e-5)
