"""The learner of one agent: policy, critic and rollout, and its updates in an iteration of MATRPO (Algorithm 1).

An iteration is `act` T times (T steps in B environments: M samples), `prepare_update`, `step` at each activation of a
link, and `finish_update`. Links and sockets are unknown here: `step` is given the consensus term.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from matrpo import random_streams
from matrpo.decentralized.local_steps import LocalSteps, make_local_steps
from matrpo.decentralized.model_fitting import fit_models
from matrpo.decentralized.shared_samples import SharedSamples
from matrpo.envs.shared import AgentStep
from matrpo.errors import ConfigError
from matrpo.networks.critic import Critic
from matrpo.networks.device import ActingNetworks
from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.linearized_policy import LinearizedPolicy
from matrpo.networks.state import load_module, load_optimizer, module_tensors, optimizer_tensors, to_arrays, to_tensors
from matrpo.sampling.acting import Actor
from matrpo.sampling.draws import Draws
from matrpo.sampling.rollout import Rollout
from matrpo.settings.config import Config
from matrpo.spaces import TaskSpec
from matrpo.trust_region.line_search import Reached, line_search
from matrpo.trust_region.sampled_fisher import SampledFisher, linearize
from matrpo.trust_region.step_rule import make_step_rule


class Agent:
    """Learner of agent q of N: policy, critic, optimiser state and rollout.

    Args:
        agent_id: q, from 0.
        penalty: `|E(q)| beta`, the number of the agent's links times the ADMM penalty; 0 without links.
        spec: the task's observation sizes and action spaces.
        config: the run's settings.
    """

    def __init__(self, agent_id: int, penalty: float, spec: TaskSpec, config: Config) -> None:
        self.agent_id = agent_id
        self.spec = spec
        self.config = config
        self._generator = torch.Generator().manual_seed(random_streams.learner(config.seed, agent_id))
        self._device = device = torch.device(config.device)
        self.policy = JointPolicy(agent_id, spec, config, self._generator).to(device)
        self.critic = Critic(spec.observation_sizes[agent_id], config, config, self._generator, device)
        self._acting = ActingNetworks([self.policy])
        self._actor = Actor(self._acting.networks[0], config.num_envs)
        self._critic_state = self.critic.initial_state(config.num_envs)
        self._rollout = Rollout(agent_id, spec, config, config, self.policy.network.state_size, device)
        self._draws = Draws(self._generator)
        self._rule = make_step_rule(penalty, config)
        self._update: Update | None = None

    @property
    def rollout(self) -> Rollout:
        """The rollout of the iteration."""
        return self._rollout

    @property
    def update(self) -> Update:
        """The pending policy update, made by `prepare_update`."""
        if self._update is None:
            raise RuntimeError("no update is running: call prepare_update first")
        return self._update

    def act(self, step: AgentStep, first: int = 0) -> np.ndarray:
        """Record the transition that ended and the new observation, and sample the next actions.

        The environments may be asked for in parts, each going ahead at its own pace within the iteration: actions are
        the same as if they were asked for together.

        Args:
            step: the outcome of the previous action (ignored at an iteration's first step) and the observation, of all
                environments or of b that follow one another.
            first: the first of them.

        Returns:
            (b, width of this agent's action), float32.
        """
        rollout = self._rollout
        if rollout.complete:
            self._draws.begin()
        if 0 < rollout.t(first) < self.config.rollout_length:
            rollout.add_outcome(step, first)
        rollout.add_observation(step, self._actor.state, first)
        generator = self._draws.of(rollout.t(first) - 1)
        return self._actor.act(step.seen, generator, False, first)

    def discard_rollout(self) -> None:
        """Discard the rollout of an abandoned iteration, and the recurrent states of its episodes.

        The next observation is the first of another iteration, and what came before it need not be known.
        """
        self._rollout.discard()
        self._draws.begin()
        self._actor.state = torch.zeros_like(self._actor.state)
        self._critic_state = torch.zeros_like(self._critic_state)

    def prepare_update(self, step: AgentStep) -> None:
        """Close the rollout, fit the critic, estimate advantages by it and linearise the policy.

        Args:
            step: the outcome of the iteration's last action, of all environments.
        """
        config, rollout = self.config, self._rollout
        rollout.add_outcome(step)
        values = rollout.values(self.critic, self._critic_state)
        _, targets = rollout.advantages(values, config.gamma, config.gae_lambda)
        sequences = rollout.critic_sequences(values)
        loss = self.critic.fit(rollout.observations, targets, config.critic_epochs, config.critic_batch, sequences)
        values = rollout.values(self.critic, self._critic_state)
        advantages, returns = rollout.advantages(values, config.gamma, config.gae_lambda)
        explained = 1.0 - float(advantages.var() / returns.var().clamp_min(1e-12))
        ended = torch.from_numpy(step.ended).unsqueeze(1)
        self._critic_state = values.states[-1].masked_fill(ended.to(self._device), 0.0)
        self._actor.state = self._actor.state.masked_fill(ended, 0.0)
        if config.model_epochs:
            self._fit_models()
        samples = rollout.observations, rollout.joint_actions, rollout.action_masks, rollout.sequences
        model = linearize(self.policy, *samples, config.fisher_share)
        advantages = advantages - advantages.mean()
        self._update = Update(model, make_local_steps(model, self._rule, advantages, config), advantages)
        self._critic_metrics = {"critic_loss": loss, "explained_variance": explained}

    @torch.no_grad()
    def step(self, term: np.ndarray, shared: SharedSamples) -> np.ndarray:
        """The local step for a given consensus term: with ADMM, that of eq. (22).

        Args:
            term: what the links ask for, (N, m) float32; see `Peer`.
            shared: the m samples that the consensus is about.

        Returns:
            What the agent sends: log ratios, (N, m) float32; see `LocalSteps`.
        """
        return self.update.steps.step(term, shared)

    @torch.no_grad()
    def finish_update(self) -> dict[str, float]:
        """Apply the parameter change x^q, shortened until the true KL fits the trust region; returns learning metrics.

        The surrogate is the mean over this agent's samples of A^q times the new policy's joint ratio.
        """
        update, self._update = self.update, None
        before, change, advantages = update.model.parameters, update.steps.change(), update.advantages
        products = {
            "fisher_products": update.model.fisher_products,
            "jacobian_products": update.model.jacobian_products,
        }
        del update  # The largest arrays of an iteration: what follows has room in their place.
        config, rollout = self.config, self._rollout
        samples = (rollout.observations, rollout.action_masks, rollout.sequences)
        old = self.policy.distribution(*samples)
        actions = rollout.joint_actions
        log_probs = old.log_prob(actions)
        old_log_prob = log_probs.sum(1)

        def evaluate() -> tuple[float, float]:
            new = self.policy.distribution(*samples)
            kl = float(old.kl_to(new).sum(1).mean())
            log_ratio = new.log_prob(actions).sum(1) - old_log_prob
            return kl, float((log_ratio.exp() * advantages).mean())

        def accepts(tried: Reached) -> bool:
            return tried.kl <= config.backtrack_kl * config.kl_step

        search, parameters = (config.backtrack_limit, config.backtrack_factor), list(self.policy.parameters())
        reached = line_search(parameters, before, change, evaluate, accepts, *search)
        self._acting.refresh()
        own = self.policy.own_head(*samples)
        return {
            "kl": reached.kl,
            "surrogate": reached.surrogate,
            "step_fraction": reached.fraction,
            "entropy": float(own.entropy().mean()),
            "advantage_std": float(advantages.std()),
            "model_nll": self._of_others(-log_probs),
            **products,
            **self._critic_metrics,
        }

    def state_dict(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Checkpoint state, all that the next iteration depends on: arrays, and meta data that identify their owner."""
        tensors = {"generator": self._generator.get_state()}
        tensors |= module_tensors("policy", self.policy) | module_tensors("critic", self.critic)
        tensors |= optimizer_tensors("optimizer", self.critic.optimizer)
        if self._critic_state.numel():
            tensors |= {"memory.policy": self._actor.state, "memory.critic": self._critic_state}
        return to_arrays(tensors), self._identity()

    def load_state_dict(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            ConfigError: the state is another agent's, another task's, or of networks of other sizes.
        """
        for key, value in self._identity().items():
            if meta.get(key) != value:
                raise ConfigError(f"checkpoint is for {key} {meta.get(key)!r}, this run has {value!r}")
        tensors = to_tensors(arrays)
        load_module("policy", self.policy, tensors)
        load_module("critic", self.critic, tensors)
        load_optimizer("optimizer", self.critic.optimizer, tensors)
        self._acting.refresh()
        self._generator.set_state(tensors["generator"])
        if self._critic_state.numel():
            self._actor.state = _like(self._actor.state, tensors.get("memory.policy"))
            self._critic_state = _like(self._critic_state, tensors.get("memory.critic")).to(self._device)

    def _identity(self) -> dict[str, Any]:
        return {
            "task": self.spec.name,
            "agent": self.agent_id,
            "agents": self.spec.num_agents,
            "observation_size": self.spec.observation_sizes[self.agent_id],
        }

    def _fit_models(self) -> None:
        rollout = self._rollout
        with torch.no_grad():
            features = self.policy.network.features(rollout.observations, rollout.sequences)
        fit_models(self.policy, features, rollout.joint_actions, self.config.model_epochs, self._generator)

    def _of_others(self, values: Tensor) -> float:
        """Mean of an (M, N) array over the other agents' columns; 0 if there are none."""
        others = [n for n in range(self.spec.num_agents) if n != self.agent_id]
        return float(values[:, torch.tensor(others).to(self._device)].mean()) if others else 0.0


class Update:
    """A pending policy update: linearised policy, local steps and advantages, fixed during one iteration's consensus.

    Args:
        model: the policy, linearised at the iteration's samples.
        steps: the local steps; they hold the last one's x^q.
        advantages: A^q, (M,).
    """

    def __init__(self, model: LinearizedPolicy | SampledFisher, steps: LocalSteps, advantages: Tensor) -> None:
        self.model = model
        self.steps = steps
        self.advantages = advantages


def _like(old: Tensor, new: Tensor | None) -> Tensor:
    if new is None or new.shape != old.shape:
        found = "nothing" if new is None else tuple(new.shape)
        raise ConfigError(f"checkpoint does not fit the networks of this run: it remembers {found}")
    return new
