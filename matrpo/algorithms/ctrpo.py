"""C-TRPO: TRPO of one joint policy on the joint observation (section VI.B of Li & He).

The N agents are reduced to a single one, the team: its observation and its action, of width W, concatenate theirs, and
its reward is the sum of theirs. Its policy is a network with one head for each agent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matrpo.algorithms.shared import instruments
from matrpo.algorithms.shared.algorithm import JointActor, LearnerState
from matrpo.algorithms.shared.instruments import Change
from matrpo.algorithms.shared.learner import Samples
from matrpo.algorithms.shared.mirror import KLBall, Mirror, NoDrift
from matrpo.algorithms.shared.simultaneous import Simultaneous
from matrpo.envs.central import CentralStep
from matrpo.envs.shared import AgentStep
from matrpo.envs.vector_env import ActorInput
from matrpo.errors import ConfigError
from matrpo.networks.distributions import MASKED, Head
from matrpo.networks.joint_policy import JointDistribution, JointPolicy
from matrpo.networks.state import under
from matrpo.settings.config import Config
from matrpo.spaces import ActionSpace, TaskSpec


class CTRPO(Simultaneous):
    """Maximises E[r A] within mean KL N `kl_step` of the old policy; r: the joint action's ratio, A: its advantage."""

    can_share = False
    settings_read = (Simultaneous.settings_read | KLBall.settings_read) - {"share_parameters", "agent_id", "state_type"}

    def __init__(self, spec: TaskSpec, state_sizes: tuple[int, ...], config: Config) -> None:
        if len(state_sizes) > 1:
            raise ConfigError("ctrpo has one critic of one state: leave state_type fp out")
        self._team = spec
        alone = TaskSpec(spec.name, ("team",), (sum(spec.observation_sizes),), spec.action_spaces)
        super().__init__(alone, state_sizes, config)

    def mirror(self) -> Mirror:
        return Mirror(NoDrift(), KLBall(self._team.num_agents))

    def make_policy(self, agent: int) -> JointPolicy:  # noqa: ARG002
        return self.new_policy(TeamPolicy, self.spec)

    def columns(self, agent: int) -> slice:  # noqa: ARG002
        """All columns: the team's action is the joint action."""
        return slice(None)

    def act(self, step: CentralStep) -> np.ndarray:
        return super().act(_as_one(step, self._team.action_spaces))

    def observe(self, step: CentralStep) -> None:
        super().observe(_as_one(step, self._team.action_spaces))

    def improve(self, samples: list[Samples], old: list[Head], advantages: list[Tensor]) -> list[dict[str, Any]]:
        """Update the team's policy; the report is repeated for every agent."""
        reports = super().improve(samples, old, advantages)
        return [dict(reports[0]) for _ in self._team.agents]

    def changes(self, samples: list[Samples], old: list[Head], new: list[Head]) -> list[Change]:
        (part,), (before,), (after,) = samples, old, new
        assert isinstance(before, TeamHead)
        assert isinstance(after, TeamHead)
        alive = part.alive.unsqueeze(1).expand(-1, self._team.num_agents)
        return instruments.changes(before.joint, after.joint, part.actions, alive)

    def actor(self, num_envs: int) -> JointActor:
        return TeamActor(super().actor(num_envs), self._team.action_spaces)

    def state_dict(self) -> LearnerState:
        """Everything, in the trainer's part: no agent has a policy of its own."""
        state = super().state_dict()
        team = {f"team.{name}": value for name, value in state.agents[0].items()}
        return LearnerState(state.trainer | team, [{} for _ in self._team.agents])

    def load_state_dict(self, state: LearnerState) -> None:
        super().load_state_dict(LearnerState(state.trainer, [under(state.trainer, "team.")]))


class TeamPolicy(JointPolicy):
    """A joint policy that acts with all its heads; action masks, (batch, outputs), cover all network outputs."""

    def own_head_of(self, outputs: Tensor, action_mask: Tensor | None = None) -> TeamHead:
        return TeamHead(self.distribution_of(outputs, action_mask))

    def _mask(self, outputs: Tensor, action_mask: Tensor) -> Tensor:
        return outputs.masked_fill(~action_mask, MASKED)


class TeamHead:
    """The distribution of joint actions: all heads of a joint policy as one `distributions.Head`.

    Attributes:
        joint: the heads.
    """

    def __init__(self, joint: JointDistribution) -> None:
        self.joint = joint

    def select(self, rows: Tensor) -> TeamHead:
        """The distributions at some of the samples."""
        return TeamHead(self.joint.select(rows))

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw joint actions. Shape (batch, 1, W)."""
        return torch.cat([block.sample(generator).flatten(1) for block in self.joint.blocks], dim=1).unsqueeze(1)

    def mode(self) -> Tensor:
        """The most probable joint actions. Shape (batch, 1, W)."""
        return torch.cat([block.mode().flatten(1) for block in self.joint.blocks], dim=1).unsqueeze(1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log probabilities of joint actions. Shapes (batch, 1, W) -> (batch, 1)."""
        return self.joint.log_prob(actions.squeeze(1)).sum(1, keepdim=True)

    def entropy(self) -> Tensor:
        """Shape (batch, 1)."""
        return self.joint.entropy().sum(1, keepdim=True)

    def kl_to(self, other: TeamHead) -> Tensor:
        """D_KL(self || other). Shape (batch, 1)."""
        return self.joint.kl_to(other.joint).sum(1, keepdim=True)

    def total_variation_to(self, other: TeamHead) -> Tensor:
        """The total variation's upper bound, the sum of the heads'. Shape (batch, 1)."""
        return self.joint.total_variation_to(other.joint).sum(1, keepdim=True)


class TeamActor:
    """The deployed team policy as an actor in the original multi-agent task.

    Args:
        team: acts in the task of one agent.
        spaces: the agents' action spaces.
    """

    def __init__(self, team: JointActor, spaces: Sequence[ActionSpace]) -> None:
        self._team = team
        self._spaces = spaces

    def act(self, seen: Sequence[ActorInput], generator: torch.Generator, deterministic: bool) -> np.ndarray:
        """As `acting.Actors.act`."""
        return self._team.act([_joint_input(seen, self._spaces)], generator, deterministic)


def _as_one(step: CentralStep, spaces: Sequence[ActionSpace]) -> CentralStep:
    """A step of all agents as a step of the team."""
    agents, (state,) = step.agents, step.states
    seen = _joint_input([agent.seen for agent in agents], spaces)
    finals = [agent.final_observation for agent in agents if agent.final_observation is not None]
    team = AgentStep(
        observation=seen.observation,
        reward=state.reward,
        reward_scale=state.reward_scale,
        terminated=state.terminated,
        truncated=state.truncated,
        final_observation=np.concatenate(finals, axis=1) if finals else None,
        joint_action=state.joint_action,
        action_mask=seen.action_mask,
    )
    alive, survived = (np.any(agents, axis=1, keepdims=True) for agents in (step.alive, step.survived))
    return CentralStep([team], step.states, alive, survived)


def _joint_input(seen: Sequence[ActorInput], spaces: Sequence[ActionSpace]) -> ActorInput:
    """The joint observation and action mask; an episode has ended when it has for all agents."""
    observation = np.concatenate([each.observation for each in seen], axis=1)
    mask = _joint_mask([each.action_mask for each in seen], spaces)
    return ActorInput(observation, mask, np.all([each.ended for each in seen], axis=0))


def _joint_mask(masks: Sequence[np.ndarray | None], spaces: Sequence[ActionSpace]) -> np.ndarray | None:
    """All agents' action masks side by side, as wide as the outputs of a network with a head for each."""
    given = next((mask for mask in masks if mask is not None), None)
    if given is None:
        return None
    parts = [
        np.ones((len(given), space.parameters), dtype=bool) if mask is None else mask
        for mask, space in zip(masks, spaces, strict=True)
    ]
    return np.concatenate(parts, axis=1)
