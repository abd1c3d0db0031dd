"""One agent: its policy, critic and samples, and its side of an iteration of MATRPO (Algorithm 1).

An iteration is `act` T times, `prepare_update`, `step` whenever one of the agent's links is activated, and
`finish_update`. Nothing here knows of links, neighbours or sockets: `step` is handed what the links ask for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from matrpo.config import Config, ConfigError
from matrpo.critic import Critic
from matrpo.envs.shared import AgentStep
from matrpo.networks import set_flat_parameters
from matrpo.policy import JointPolicy, LinearizedPolicy
from matrpo.preconditioner import KroneckerPreconditioner
from matrpo.rollout import Rollout
from matrpo.spaces import TaskSpec
from matrpo.trust_region import ConjugateGradientSolver, RecycledSolver, Solver, StepRule


class Agent:
    """Agent q of N.

    Args:
        agent_id: q, from 0.
        penalty: |E(q)| beta, the number of the agent's links times the ADMM penalty; 0 without links.
        spec: the task's observation sizes and action spaces.
        config: the run's settings.
    """

    def __init__(self, agent_id: int, penalty: float, spec: TaskSpec, config: Config) -> None:
        self.agent_id = agent_id
        self.spec = spec
        self.config = config
        seed = np.random.SeedSequence([config.seed, agent_id]).generate_state(1, np.uint64)[0]
        self._generator = torch.Generator().manual_seed(int(seed >> np.uint64(1)))
        self.policy = JointPolicy(
            agent_id, spec, config.hidden_sizes, config.activation, config.initial_log_std, self._generator
        )
        self.critic = Critic(
            spec.observation_sizes[agent_id],
            config.hidden_sizes,
            config.activation,
            config.critic_lr,
            self._generator,
        )
        self._rollout = Rollout(agent_id, spec, config.rollout_length, config.num_envs)
        self._rule = make_step_rule(penalty, config)
        self._update: _Update | None = None

    @torch.no_grad()
    def act(self, step: AgentStep) -> np.ndarray:
        """Take in what the environment says and choose the next actions.

        Args:
            step: the outcome of the previous action (ignored at an iteration's first step) and the observation.

        Returns:
            (B, width of this agent's action), float32.
        """
        if 0 < self._rollout.t < self.config.rollout_length:
            self._rollout.add_outcome(step)
        self._rollout.add_observation(step)
        return self.choose(step.observation, step.action_mask, self._generator, deterministic=False)

    def discard_rollout(self) -> None:
        """Forget the samples of an iteration that is thrown away; the next observation is the first of another."""
        self._rollout.discard()

    @torch.no_grad()
    def choose(
        self, observation: np.ndarray, action_mask: np.ndarray | None, generator: torch.Generator, deterministic: bool
    ) -> np.ndarray:
        """Actions by the current policy, drawn or most probable; nothing is recorded.

        Args:
            observation: (B, observation size) float32.
            action_mask: (B, n) booleans, or None if every action is available.
            generator: what drawn actions are drawn from.
            deterministic: take the most probable action.

        Returns:
            (B, width of this agent's action), float32.
        """
        mask = None if action_mask is None else torch.from_numpy(action_mask)
        head = self.policy.own_head(torch.from_numpy(observation), mask)
        actions = head.mode() if deterministic else head.sample(generator)
        chosen: np.ndarray = actions[:, 0].numpy()
        return chosen

    def prepare_update(self, step: AgentStep) -> None:
        """Close the rollout, fit the critic, estimate advantages by it and linearise the policy.

        Args:
            step: the outcome of the iteration's last action.
        """
        config = self.config
        self._rollout.add_outcome(step)
        _, targets = self._rollout.advantages(self.critic, config.gamma, config.gae_lambda)
        loss = self.critic.fit(self._rollout.observations, targets, config.critic_epochs, config.critic_batch)
        advantages, returns = self._rollout.advantages(self.critic, config.gamma, config.gae_lambda)
        explained = 1.0 - float(advantages.var() / returns.var().clamp_min(1e-12))
        model = LinearizedPolicy(
            self.policy, self._rollout.observations, self._rollout.joint_actions, self._rollout.action_masks
        )
        solver = make_solver(model, self._rule, config)
        self._update = _Update(model, solver, advantages - advantages.mean())
        self._critic_metrics = {"critic_loss": loss, "explained_variance": explained}

    @torch.no_grad()
    def step(self, pull: np.ndarray) -> np.ndarray:
        """The local step of eq. (22), for the links' part of its weights.

        Args:
            pull: sum_e (beta ubar_e - C_e^q y_e), (N, M) float32.

        Returns:
            u^q = [J^{qn} x^q]_n, (N, M) float32.
        """
        update = self._running_update()
        ratios: np.ndarray = update.solver.solve(update.advantages + torch.from_numpy(pull)).numpy()
        return ratios

    @torch.no_grad()
    def finish_update(self) -> dict[str, float]:
        """Apply x^q, halved until the true KL fits the trust region, and say how the iteration went.

        The surrogate is the mean over this agent's samples of A^q times the new policy's joint ratio.
        """
        update, config = self._running_update(), self.config
        rollout, parameters = self._rollout, list(self.policy.parameters())
        old = self.policy.distribution(rollout.observations, rollout.action_masks)
        old_log_prob = old.log_prob(rollout.joint_actions).sum(1)
        kl = surrogate = fraction = 0.0
        for halvings in range(config.backtrack_limit + 1):
            fraction = 0.5**halvings
            set_flat_parameters(parameters, update.model.parameters + fraction * update.solver.x)
            new = self.policy.distribution(rollout.observations, rollout.action_masks)
            kl = float(old.kl_to(new).sum(1).mean())
            log_ratio = new.log_prob(rollout.joint_actions).sum(1) - old_log_prob
            surrogate = float((log_ratio.exp() * update.advantages).mean())
            if kl <= config.backtrack_kl * config.kl_step:
                break
        else:
            set_flat_parameters(parameters, update.model.parameters)
            kl = surrogate = fraction = 0.0
        own = self.policy.own_head(rollout.observations, rollout.action_masks)
        metrics = {
            "kl": kl,
            "surrogate": surrogate,
            "step_fraction": fraction,
            "entropy": float(own.entropy().mean()),
            "advantage_std": float(update.advantages.std()),
            "fisher_products": update.model.fisher_products,
            "jacobian_products": update.model.jacobian_products,
            **self._critic_metrics,
        }
        self._update = None
        return metrics

    def state_dict(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Everything that the next iteration depends on: arrays, and what says whom they belong to."""
        tensors: dict[str, Tensor] = {"generator": self._generator.get_state()}
        tensors |= {f"policy.{name}": value for name, value in self.policy.state_dict().items()}
        tensors |= {f"critic.{name}": value for name, value in self.critic.state_dict().items()}
        for index, state in self.critic.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        return {name: value.numpy().copy() for name, value in tensors.items()}, self._identity()

    def load_state_dict(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            ConfigError: the state is another agent's, another task's, or of networks of other sizes.
        """
        for key, value in self._identity().items():
            if meta.get(key) != value:
                raise ConfigError(f"checkpoint is for {key} {meta.get(key)!r}, this run has {value!r}")
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        optimizer = self.critic.optimizer.state_dict()
        try:
            self._generator.set_state(tensors["generator"])
            self.policy.load_state_dict(_under(tensors, "policy."))
            self.critic.load_state_dict(_under(tensors, "critic."))
        except (KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise ConfigError(f"checkpoint does not fit the networks of this run: {reason}") from None
        optimizer["state"] = {}
        for name, value in _under(tensors, "optimizer.").items():
            index, key = name.split(".")
            optimizer["state"].setdefault(int(index), {})[key] = value
        self.critic.optimizer.load_state_dict(optimizer)

    def _identity(self) -> dict[str, Any]:
        return {
            "task": self.spec.name,
            "agent": self.agent_id,
            "agents": self.spec.num_agents,
            "observation_size": self.spec.observation_sizes[self.agent_id],
        }

    def _running_update(self) -> _Update:
        if self._update is None:
            raise RuntimeError("no update is running: call prepare_update first")
        return self._update


class _Update:
    """What one iteration's consensus works with."""

    def __init__(self, model: LinearizedPolicy, solver: Solver, advantages: Tensor) -> None:
        self.model = model
        self.solver = solver
        self.advantages = advantages


def make_step_rule(penalty: float, config: Config) -> StepRule:
    """The step length of an agent with that penalty |E(q)| beta."""
    return StepRule(config.kl_step, penalty, config.step_rule == "paper")


def make_solver(model: LinearizedPolicy, rule: StepRule, config: Config) -> Solver:
    """The solver that a configuration names."""
    if config.solver == "cg":
        return ConjugateGradientSolver(model, rule, damping=config.damping, iterations=config.cg_iterations)
    return RecycledSolver(
        model,
        rule,
        KroneckerPreconditioner(model.kronecker_factors(), config.damping),
        damping=config.damping,
        first_directions=config.cg_iterations,
        tolerance=config.solver_tolerance,
        extension=config.solver_extension,
        check_every=config.solver_check_every,
    )


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
