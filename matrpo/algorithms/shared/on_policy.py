"""The base of on-policy algorithms: rollouts, critics, advantages. M samples: T steps of B environments."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matrpo.algorithms.shared import instruments
from matrpo.algorithms.shared.algorithm import Algorithm, JointActor, LearnerState, UpdateReport
from matrpo.algorithms.shared.learner import Learner, Samples, standardized
from matrpo.envs.central import CentralStep
from matrpo.envs.shared import AgentStep
from matrpo.errors import ConfigError
from matrpo.networks.critic import Critic
from matrpo.networks.device import ActingNetworks
from matrpo.networks.distributions import Head
from matrpo.networks.gae import explained_variance
from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.sequences import Sequences, side_by_side
from matrpo.networks.state import load_module, load_optimizer, module_tensors, optimizer_tensors
from matrpo.sampling.acting import Actors
from matrpo.sampling.rollout import Rollout, Values
from matrpo.settings.config import Config
from matrpo.spaces import TaskSpec


class OnPolicy(Algorithm):
    """Collects rollouts, estimates advantages (GAE) with its critics, updates the policies, then fits the critics.

    Each agent has a policy of its own observation; with `share_parameters` they have one in common.

    Attributes:
        central_critic: whether one critic sees the state and the team's reward, or each agent has one of its own
            observation and reward.
        can_share: whether agents may have a policy in common.
        learners: each agent's, or the one that all share.
        policies: each agent's.
        critics: one, or each agent's.
    """

    central_critic = True
    can_share = True
    settings_read = Algorithm.settings_read | {
        *("hidden_sizes", "feature_normalization", "activation", "orthogonal_initialization"),
        *("recurrent_layers", "chunk_length", "initial_log_std", "share_parameters", "agent_id"),
        *("gae_lambda", "critic_epochs", "critic_batch", "critic_lr", "huber_delta", "value_clip", "max_grad_norm"),
        *("state_type", "lr_decay"),
    }

    def __init__(self, spec: TaskSpec, state_sizes: tuple[int, ...], config: Config) -> None:
        super().__init__(spec, state_sizes, config)
        self.learners = self._make_learners()
        self.policies = [self.learner(q).policy for q in range(spec.num_agents)]
        sizes = self.critic_sizes(spec, state_sizes)
        if len(set(sizes)) > 1 and (self.central_critic or config.share_parameters):
            raise ConfigError(f"{spec.name}: one critic cannot see states of different sizes, {sizes}")
        separate = not (self.central_critic or config.share_parameters)
        kinds = sizes if separate else sizes[:1]
        self.critics = [Critic(size, config, config, self.generator, self.device) for size in kinds]
        self._acting = ActingNetworks(self.policies)
        self._actors = Actors(self._acting.networks, config.num_envs)
        state_size = self.policies[0].network.state_size
        self._rollouts = [Rollout(q, spec, config, config, state_size, self.device) for q in range(spec.num_agents)]
        self._views = self._rollouts
        if self.central_critic or sizes != spec.observation_sizes:
            view = TaskSpec(spec.name, ("all",), sizes[:1], spec.action_spaces)
            self._views = [Rollout(0, view, config, config, state_size, self.device) for _ in sizes]
        self._memories = [self.critic(v).initial_state(config.num_envs) for v in range(len(self._views))]
        shape = config.rollout_length, config.num_envs
        self._outputs = [np.zeros((*shape, actor.outputs.shape[1]), np.float32) for actor in self._actors.members]
        self._alive = np.ones((config.rollout_length, config.num_envs, spec.num_agents), dtype=bool)
        self._last: CentralStep | None = None

    @property
    def outputs(self) -> list[Tensor]:
        """The outputs of its network that each agent acted by on its samples, (M, outputs)."""
        return [torch.from_numpy(outputs).flatten(0, 1).to(self.device) for outputs in self._outputs]

    @abstractmethod
    def improve(self, samples: list[Samples], old: list[Head], advantages: list[Tensor]) -> list[dict[str, Any]]:
        """Update the policies on the rollouts' samples.

        Args:
            samples: each agent's.
            old: for each agent, the distributions that it acted by on its samples.
            advantages: for each agent, (M,), of zero mean and unit variance over the samples where it is alive.

        Returns:
            What to report of each agent.
        """

    def learner(self, agent: int) -> Learner:
        """The policy and optimiser of an agent."""
        return self.learners[0 if self.config.share_parameters else agent]

    def critic(self, view: int) -> Critic:
        """The critic of a view (its input): of the state, of an agent's state, or of an agent's observation."""
        return self.critics[view % len(self.critics)]

    def critic_sizes(self, spec: TaskSpec, state_sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The input size of each view of the critics."""
        return state_sizes if self.central_critic else spec.observation_sizes

    def seen_by_critics(self, step: CentralStep) -> list[AgentStep]:
        """The critics' input at a step, one for each view."""
        return step.states if self.central_critic else step.agents

    def act(self, step: CentralStep) -> np.ndarray:
        """Choose the next joint action, and record the observations that it is chosen on."""
        t = self._rollouts[0].t() % self.config.rollout_length
        if not t:
            self._acting.refresh()
            self._actors.refresh()
        self._alive[t] = step.alive
        for rollout, actor, seen in zip(self._rollouts, self._actors.members, step.agents, strict=True):
            rollout.add_observation(seen, actor.state)
        if self._views is not self._rollouts:
            for view, seen in zip(self._views, self.seen_by_critics(step), strict=True):
                view.add_observation(seen, self._actors.members[0].state)
        actions = self._actors.act([agent.seen for agent in step.agents], self.generator, deterministic=False)
        for outputs, actor in zip(self._outputs, self._actors.members, strict=True):
            outputs[t] = actor.outputs.numpy()
        return actions

    def observe(self, step: CentralStep) -> None:
        for rollout, seen in zip(self._rollouts, step.agents, strict=True):
            rollout.add_outcome(seen)
        if self._views is not self._rollouts:
            for view, seen in zip(self._views, self.seen_by_critics(step), strict=True):
                view.add_outcome(seen)
        self._last = step

    def update(self, iteration: int) -> UpdateReport:
        """Estimate advantages, improve the policies, fit the critics: the order of HARL's Algorithms 3 to 5."""
        config = self.config
        optimizers = [learner.optimizer for learner in self.learners] + [critic.optimizer for critic in self.critics]
        self.set_learning_rates(iteration, optimizers)
        for learner in self.learners:
            learner.kl_step = config.trust_region(iteration)
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
        advantages = [standardized(*pair) for pair in zip(estimates, samples, strict=True)]
        old = self._acted_by(samples)
        reports = self.improve(samples, old, advantages)
        changes = self.changes(samples, old, self.improved(samples))
        losses = self.fit_critics([target for _, target in pairs], values)
        explained = [explained_variance(errors, returns) for errors, returns in pairs]
        self._carry_over(values)
        trainer = {"critic_loss": float(np.mean(losses)), "explained_variance": float(np.mean(explained))}
        agents = [report | change.metrics() for report, change in zip(reports, changes, strict=True)]
        return UpdateReport(trainer | instruments.joint_metrics(changes), agents)

    def changes(self, samples: list[Samples], old: list[Head], new: list[Head]) -> list[instruments.Change]:
        """The change of each agent's policy in an update, from its distributions before and after."""
        return [
            change
            for part, before, after in zip(samples, old, new, strict=True)
            for change in instruments.changes(before, after, part.actions.unsqueeze(1), part.alive.unsqueeze(1))
        ]

    def actor(self, num_envs: int) -> JointActor:
        """The agents, each with its own policy and observations."""
        self._acting.refresh()
        return Actors(self._acting.networks, num_envs)

    def state_dict(self) -> LearnerState:
        """Networks, optimisers, recurrent states and the generator's state."""
        tensors = {"generator": self.generator.get_state()}
        for index, learner in enumerate(self.learners):
            tensors |= optimizer_tensors(f"policy_optimizer.{index}", learner.optimizer)
        for index, critic in enumerate(self.critics):
            tensors |= module_tensors(f"critic.{index}", critic)
            tensors |= optimizer_tensors(f"critic_optimizer.{index}", critic.optimizer)
        tensors |= {f"memory.critic.{v}": memory for v, memory in enumerate(self._memories)}
        agents = [
            module_tensors("policy", policy) | {"memory": actor.state}
            for policy, actor in zip(self.policies, self._actors.members, strict=True)
        ]
        return LearnerState(tensors, agents)

    def load_state_dict(self, state: LearnerState) -> None:
        """Restore `state_dict`; recurrent states are of as many environments as they were saved with."""
        for index, learner in enumerate(self.learners):
            load_optimizer(f"policy_optimizer.{index}", learner.optimizer, state.trainer)
        for index, critic in enumerate(self.critics):
            load_module(f"critic.{index}", critic, state.trainer)
            load_optimizer(f"critic_optimizer.{index}", critic.optimizer, state.trainer)
        memories = [state.trainer[f"memory.critic.{v}"] for v in range(len(self._memories))]
        self._memories = [memory.to(self.device) for memory in memories]
        for policy, actor, tensors in zip(self.policies, self._actors.members, state.agents, strict=True):
            load_module("policy", policy, tensors)
            actor.state = tensors["memory"]
        self.generator.set_state(state.trainer["generator"])

    def make_policy(self, agent: int) -> JointPolicy:
        """A fresh policy of an agent."""
        return self.new_policy(JointPolicy, self.spec.alone(agent))

    def new_policy(self, kind: type[JointPolicy], spec: TaskSpec) -> JointPolicy:
        """A policy of the first agent of a task, with the configured network."""
        return kind(0, spec, self.config, self.generator)

    def columns(self, agent: int) -> slice:
        """Which columns of the joint action are an agent's."""
        return self.spec.action_slices[agent]

    def _make_learners(self) -> list[Learner]:
        spec, config = self.spec, self.config
        if config.agent_id and self.can_share and not config.share_parameters:
            raise ConfigError("agent_id: every agent has a policy of its own: set share_parameters, or leave it out")
        if not config.share_parameters:
            return [Learner(self.make_policy(q), config, self.generator) for q in range(spec.num_agents)]
        if not self.can_share:
            raise ConfigError(f"{config.algo}: every agent has a policy of its own: leave share_parameters out")
        if len(set(zip(spec.observation_sizes, spec.action_spaces, strict=True))) > 1:
            raise ConfigError(
                f"share_parameters: the agents of {spec.name} differ in what they see or do: set agent_id"
            )
        return [Learner(self.make_policy(0), config, self.generator)]

    def improved(self, samples: list[Samples]) -> list[Head]:
        """Each agent's action distributions at its samples, after `improve`."""
        return self._heads(samples)

    @torch.no_grad()
    def _heads(self, samples: list[Samples]) -> list[Head]:
        return [part.head(policy) for part, policy in zip(samples, self.policies, strict=True)]

    @torch.no_grad()
    def _acted_by(self, samples: list[Samples]) -> list[Head]:
        """Each agent's action distributions at its samples, as it acted by them."""
        parts = zip(samples, self.policies, self.outputs, strict=True)
        return [part.head_of(policy, outputs) for part, policy, outputs in parts]

    def _samples(self, agent: int) -> Samples:
        rollout = self._rollouts[agent]
        actions = rollout.joint_actions[:, self.columns(agent)]
        alive = torch.from_numpy(self._alive[:, :, agent].flatten()).to(self.device)
        return Samples(rollout.observations, actions, rollout.action_masks, alive, rollout.sequences)

    def fit_critics(self, targets: list[Tensor], values: list[Values]) -> list[float]:
        """Regress each critic on the targets of all its views; the losses."""
        config, count = self.config, len(self.critics)
        losses = []
        for index, critic in enumerate(self.critics):
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

    def _carry_over(self, values: list[Values]) -> None:
        """Carry recurrent states over to the next iteration, set to zero where the episode has ended."""
        assert self._last is not None
        views = self.seen_by_critics(self._last)
        self._memories = [
            value.states[-1].masked_fill(_over(seen).to(self.device), 0.0)
            for value, seen in zip(values, views, strict=True)
        ]
        for actor, seen in zip(self._actors.members, self._last.agents, strict=True):
            actor.state = actor.state.masked_fill(_over(seen), 0.0)


def _over(seen: AgentStep) -> Tensor:
    """Environments whose episode has ended in this view, (B, 1)."""
    return torch.from_numpy(seen.ended).unsqueeze(1)
