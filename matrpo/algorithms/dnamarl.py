"""DNA-MARL: actor-critics that learn the team's value by averaging value targets (Varela, Sardinha & Melo 2025).

As a baseline that is decentralised as MATRPO is. From arXiv 2501.08778: agents see their own observations and rewards
alone, and approximate the value of the team by a consensus with their neighbours, over links that switch and lose
messages. What is averaged is as in the authors' implementation of its actor-critic, DNAA2C (GAIPS/epyresco). In an
iteration, agent i computes return targets y^i of its own rewards and its own critic V^i, (M,), and

    y^i      <- mean over the agents of y^j             by the links
    A^i      =  y^i - V^i(o^i)
    theta^i  <- theta^i + alpha grad E[A^i log pi^i]    with an entropy bonus
    omega^i  <- argmin E[(y^i - V^i(o^i))^2]

Targets are linear in rewards and values: their mean is the target of the mean reward, with the mean of all critics'
values where it bootstraps. Three things are otherwise than there. The links are MATRPO's: pairwise averages that
conserve the sum whatever is lost (`averaging_term` in `consensus/admm.py`), one link after another, in place of rounds
of Metropolis weights on random graphs. Targets are lambda-returns (GAE), not those of n steps. There is no target
critic. On the wire, targets beyond 65504 are cut off, and float16 rounds them, as log ratios are.
"""

from __future__ import annotations

import numpy as np
import torch

from matrpo.algorithms.shared import instruments
from matrpo.algorithms.shared.learner import Learner, Samples, standardized
from matrpo.algorithms.shared.mirror import Mirror, NoDrift, Objective, PolicySpace
from matrpo.decentralized.actor_critic import ActorCritic
from matrpo.decentralized.shared_samples import SharedSamples
from matrpo.envs.shared import AgentStep
from matrpo.networks.gae import explained_variance
from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.state import load_optimizer, optimizer_tensors, to_arrays, to_tensors
from matrpo.sampling.rollout import Values
from matrpo.settings.config import Config
from matrpo.spaces import TaskSpec

_GRADIENT_ASCENT = PolicySpace()
_MIRROR = Mirror(NoDrift(), _GRADIENT_ASCENT)


class TeamValueAgent(ActorCritic):
    """Learner of agent i of N: a policy of its own actions, and a critic of the team's value.

    Args:
        agent_id: i, from 0.
        spec: the task's observation sizes and action spaces.
        config: the run's settings.
    """

    def __init__(self, agent_id: int, spec: TaskSpec, config: Config) -> None:
        super().__init__(agent_id, spec, config)
        self._learner = Learner(self.policy, config, self._generator)
        self._values: Values | None = None

    def _make_policy(self) -> JointPolicy:
        return JointPolicy(0, self.spec.alone(self.agent_id), self.config, self._generator)

    def prepare_update(self, step: AgentStep, iteration: int) -> None:  # noqa: ARG002
        """Close the rollout, and compute the return targets of the agent's own rewards."""
        config, rollout = self.config, self._rollout
        rollout.add_outcome(step)
        self._values = rollout.values(self.critic, self._critic_state)
        _, targets = rollout.advantages(self._values, config.gamma, config.gae_lambda)
        self._own_targets = self._targets = targets.cpu().numpy()[np.newaxis]
        self._carry_over(self._values, step)

    def step(self, term: np.ndarray, shared: SharedSamples) -> np.ndarray:  # noqa: ARG002
        """The agent's targets as the links have averaged them so far, (1, M), for the term -sum_e C_e^q y_e."""
        self._targets = self._own_targets + term
        return self._targets

    def finish_update(self) -> dict[str, float]:
        """Ascend the policy's gradient for the team's advantages, then fit the critic to the team's targets."""
        assert self._values is not None
        config, rollout, values = self.config, self._rollout, self._values
        targets = torch.from_numpy(self._targets[0]).to(self._device)
        advantages = targets - values.current.flatten()
        change = self._improve(advantages)
        sequences = rollout.critic_sequences(values)
        loss = self.critic.fit(rollout.observations, targets, config.critic_epochs, config.critic_batch, sequences)
        self._acting.refresh()
        self._values = None
        return {
            **{name: value for name, value in change.metrics().items() if value is not None},
            "advantage_std": float(advantages.std()),
            "explained_variance": explained_variance(advantages, targets),
            "critic_loss": loss,
        }

    def _improve(self, advantages: torch.Tensor) -> instruments.Change:
        """Policy gradient for advantages, (M,), of zero mean and unit variance; what it changed."""
        samples, learner = self._samples(), self._learner
        with torch.no_grad():
            old = samples.head(self.policy)
        objective = Objective(learner, samples, old, standardized(advantages, samples), _MIRROR)
        _GRADIENT_ASCENT.maximise(objective, learner)
        with torch.no_grad():
            new = samples.head(self.policy)
        return instruments.changes(old, new, samples.actions.unsqueeze(1), samples.alive.unsqueeze(1))[0]

    def _samples(self) -> Samples:
        rollout = self._rollout
        actions = rollout.joint_actions[:, self.spec.action_slices[self.agent_id]]
        alive = torch.ones(len(actions), dtype=torch.bool, device=self._device)
        return Samples(rollout.observations, actions, rollout.action_masks, alive, rollout.sequences)

    def state_dict(self) -> tuple[dict[str, np.ndarray], dict[str, object]]:
        arrays, meta = super().state_dict()
        return arrays | to_arrays(optimizer_tensors("policy_optimizer", self._learner.optimizer)), meta

    def load_state_dict(self, arrays: dict[str, np.ndarray], meta: dict[str, object]) -> None:
        super().load_state_dict(arrays, meta)
        load_optimizer("policy_optimizer", self._learner.optimizer, to_tensors(arrays))
