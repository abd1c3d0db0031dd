"""MATRPO's agent: its updates in an iteration of Algorithm 1. How it acts and is saved: `actor_critic.py`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from matrpo.decentralized.actor_critic import ActorCritic
from matrpo.decentralized.local_steps import LocalSteps, make_local_steps
from matrpo.decentralized.model_fitting import fit_models
from matrpo.decentralized.shared_samples import SharedSamples
from matrpo.envs.shared import AgentStep
from matrpo.networks.gae import explained_variance
from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.linearized_policy import LinearizedPolicy
from matrpo.settings.config import Config
from matrpo.spaces import TaskSpec
from matrpo.trust_region.line_search import Reached, line_search
from matrpo.trust_region.sampled_fisher import SampledFisher, linearize
from matrpo.trust_region.step_rule import make_step_rule


class Agent(ActorCritic):
    """Learner of agent q of N, which models the policies of all N from its own observations.

    Args:
        agent_id: q, from 0.
        penalty: `|E(q)| beta`, the number of the agent's links times the ADMM penalty; 0 without links.
        spec: the task's observation sizes and action spaces.
        config: the run's settings.
    """

    def __init__(self, agent_id: int, penalty: float, spec: TaskSpec, config: Config) -> None:
        super().__init__(agent_id, spec, config)
        self._penalty = penalty
        self._update: Update | None = None

    def _make_policy(self) -> JointPolicy:
        return JointPolicy(self.agent_id, self.spec, self.config, self._generator)

    @property
    def update(self) -> Update:
        """The pending policy update, made by `prepare_update`."""
        if self._update is None:
            raise RuntimeError("no update is running: call prepare_update first")
        return self._update

    def prepare_update(self, step: AgentStep, iteration: int) -> None:
        """Close the rollout, fit the critic, estimate advantages by it and linearise the policy."""
        config, rollout = self.config, self._rollout
        rollout.add_outcome(step)
        values = rollout.values(self.critic, self._critic_state)
        _, targets = rollout.advantages(values, config.gamma, config.gae_lambda)
        sequences = rollout.critic_sequences(values)
        loss = self.critic.fit(rollout.observations, targets, config.critic_epochs, config.critic_batch, sequences)
        values = rollout.values(self.critic, self._critic_state)
        advantages, returns = rollout.advantages(values, config.gamma, config.gae_lambda)
        explained = explained_variance(advantages, returns)
        self._carry_over(values, step)
        if config.model_epochs:
            self._fit_models()
        samples = rollout.observations, rollout.joint_actions, rollout.action_masks, rollout.sequences
        model = linearize(self.policy, *samples, config.fisher_share)
        advantages = advantages - advantages.mean()
        rule = make_step_rule(config.trust_region(iteration), self._penalty, config)
        self._update = Update(model, make_local_steps(model, rule, advantages, config), advantages, rule.kl_step)
        self._critic_metrics = {"critic_loss": loss, "explained_variance": explained}

    @torch.no_grad()
    def step(self, term: np.ndarray, shared: SharedSamples) -> np.ndarray:
        """The local step for a given consensus term, log ratios (N, m): with ADMM, that of eq. (22)."""
        return self.update.steps.step(term, shared)

    @torch.no_grad()
    def finish_update(self) -> dict[str, float]:
        """Apply the parameter change x^q, shortened until the true KL fits the trust region; returns learning metrics.

        The surrogate is the mean over this agent's samples of A^q times the new policy's joint ratio.
        """
        update, self._update = self.update, None
        before, change, advantages = update.model.parameters, update.steps.change(), update.advantages
        latest = old = update.model.distribution
        most = self.config.backtrack_kl * update.kl_step
        products = {
            "fisher_products": update.model.fisher_products,
            "jacobian_products": update.model.jacobian_products,
        }
        del update  # The largest arrays of an iteration: what follows has room in their place.
        config, rollout = self.config, self._rollout
        samples = (rollout.observations, rollout.action_masks, rollout.sequences)
        actions = rollout.joint_actions
        log_probs = old.log_prob(actions)
        old_log_prob = log_probs.sum(1)

        def evaluate() -> tuple[float, float]:
            nonlocal latest
            latest = self.policy.distribution(*samples)
            kl = float(old.kl_to(latest).sum(1).mean())
            log_ratio = latest.log_prob(actions).sum(1) - old_log_prob
            return kl, float((log_ratio.exp() * advantages).mean())

        def accepts(tried: Reached) -> bool:
            return tried.kl <= most

        search, parameters = (config.backtrack_limit, config.backtrack_factor), list(self.policy.parameters())
        reached = line_search(parameters, before, change, evaluate, accepts, *search)
        self._acting.refresh()
        entropies = (latest if reached.fraction else old).entropy()
        return {
            "kl": reached.kl,
            "surrogate": reached.surrogate,
            "step_fraction": reached.fraction,
            "entropy": float(entropies[:, self.agent_id].mean()),
            "advantage_std": float(advantages.std()),
            "model_nll": self._of_others(-log_probs),
            **products,
            **self._critic_metrics,
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
        kl_step: the agent's share of the trust region.
    """

    def __init__(
        self, model: LinearizedPolicy | SampledFisher, steps: LocalSteps, advantages: Tensor, kl_step: float
    ) -> None:
        self.model = model
        self.steps = steps
        self.advantages = advantages
        self.kl_step = kl_step
