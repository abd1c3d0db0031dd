"""FDMARL: actor-critics that average their critics over the communication graph (Zhang et al. 2018, Algorithm 2).

As a baseline of Li & He (section VI.A). An agent needs its own observation and reward, and its neighbours' critic
parameters. Where Zhang et al. let every critic see the state and estimate the average reward besides, here, as in
MATRPO's setting, each sees its agent's observation, and the actor follows its own reward. Critics of one size can be
averaged, hence those of agents that observe less than others see zeros after it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from matrpo.algorithms.maa2c import MAA2C
from matrpo.envs.central import CentralStep
from matrpo.envs.shared import AgentStep
from matrpo.networks.mlp import flat_parameters, set_flat_parameters
from matrpo.runs.graph_settings import build_graph
from matrpo.sampling.rollout import Values
from matrpo.settings.config import Config, RunConfig
from matrpo.spaces import TaskSpec


class FDMARL(MAA2C):
    """Independent advantage actor-critics; each critic is then averaged with its neighbours' (a consensus step)."""

    central_critic = False
    can_share = False
    settings_read = (MAA2C.settings_read | {"topology"}) - {"share_parameters", "agent_id", "state_type"}

    def __init__(self, spec: TaskSpec, state_sizes: tuple[int, ...], config: Config) -> None:
        super().__init__(spec, state_sizes, config)
        weights = build_graph(RunConfig.of(config, spec.num_agents)).metropolis_weights()
        self._weights = torch.from_numpy(weights).to(self.device)

    def critic_sizes(self, spec: TaskSpec, state_sizes: tuple[int, ...]) -> tuple[int, ...]:  # noqa: ARG002
        """The largest observation size, for every critic."""
        return (max(spec.observation_sizes),) * spec.num_agents

    def seen_by_critics(self, step: CentralStep) -> list[AgentStep]:
        """The agents' observations, padded with zeros to the largest size."""
        size = max(self.spec.observation_sizes)
        return [_padded(agent, size) for agent in step.agents]

    def fit_critics(self, targets: list[Tensor], values: list[Values]) -> list[float]:
        """Fit each critic to its agent's rewards, then average it with its neighbours'."""
        losses = super().fit_critics(targets, values)
        self._diffuse()
        return losses

    def _diffuse(self) -> None:
        """One consensus step on the critics' parameters, omega^i <- sum_j c(i, j) omega^j, in the rewards' units."""
        weights, critics = self._weights, self.critics
        moments = weights @ torch.stack([torch.stack([critic.mean, critic.square]) for critic in critics])
        for critic in critics:
            critic.renormalise(torch.zeros_like(critic.mean), torch.ones_like(critic.square))
        parameters = torch.stack([flat_parameters(list(critic.parameters())) for critic in critics])
        for critic, own, (mean, square) in zip(critics, weights.float() @ parameters, moments, strict=True):
            set_flat_parameters(list(critic.parameters()), own)
            critic.renormalise(mean.clone(), square.clone())


def _padded(seen: AgentStep, size: int) -> AgentStep:
    """An agent's step, its observations padded with zeros to a given size."""
    missing = size - seen.observation.shape[1]
    if not missing:
        return seen
    final = seen.final_observation
    return replace(
        seen,
        observation=np.pad(seen.observation, ((0, 0), (0, missing))),
        final_observation=None if final is None else np.pad(final, ((0, 0), (0, missing))),
    )
