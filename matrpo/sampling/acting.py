"""Actors, which sample actions from policies in batched environments: of one agent, or of all agents in one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matrpo.envs.vector_env import ActorInput
from matrpo.networks.distributions import MASKED
from matrpo.networks.joint_policy import JointPolicy
from matrpo.networks.mlp import MLP


class Actor:
    """Samples one agent's actions in B environments, and keeps the policy's recurrent states.

    Attributes:
        state: (B, size), the policy's recurrent states before the next step.
    """

    def __init__(self, policy: JointPolicy, num_envs: int) -> None:
        self._policy = policy
        self.state = torch.zeros(num_envs, policy.network.state_size)

    @torch.no_grad()
    def act(self, seen: ActorInput, generator: torch.Generator, deterministic: bool, first: int = 0) -> np.ndarray:
        """Choose actions, sampled or most probable, in b consecutive ones of the B environments.

        The network is given B rows and as many actions are drawn, whatever b is: matrix products of other shapes may
        be rounded otherwise, and a generator's numbers differ when they are drawn in parts.

        Args:
            seen: observations of these b environments.
            generator: random stream of sampled actions.
            deterministic: take the most probable action.
            first: the first of the b environments.

        Returns:
            (b, width of this agent's action), float32.
        """
        rows = slice(first, first + len(seen.observation))
        inputs, starts = self._whole(seen.observation, rows), self._whole(seen.ended, rows)
        outputs, states = self._policy.network.unroll(inputs.unsqueeze(0), starts.unsqueeze(0), self.state)
        self.state = self._merged(states[1], rows)
        mask = None if seen.action_mask is None else self._whole(seen.action_mask, rows)
        head = self._policy.own_head_of(outputs[0], mask)
        actions = head.mode() if deterministic else head.sample(generator)
        chosen: np.ndarray = actions[rows, 0].numpy()
        return chosen

    def _whole(self, part: np.ndarray, rows: slice) -> Tensor:
        """Pad some environments' rows with zeros to a batch of all B; results of the padding must not be used."""
        given = torch.from_numpy(part)
        if len(given) == len(self.state):
            return given
        whole = torch.zeros(len(self.state), *given.shape[1:], dtype=given.dtype)
        whole[rows] = given
        return whole

    def _merged(self, state: Tensor, rows: slice) -> Tensor:
        """The recurrent states with those of some environments advanced by a step."""
        merged = self.state.clone()
        merged[rows] = state[rows]
        return merged


class Actors:
    """Samples all agents' actions, each by its own policy; networks of the same shape are evaluated in one batch.

    Args:
        policies: each agent's, in the order of their ids.
        num_envs: B.
    """

    def __init__(self, policies: Sequence[JointPolicy], num_envs: int) -> None:
        self.members = [Actor(policy, num_envs) for policy in policies]
        self._policies = list(policies)
        self._teams = _alike(policies)

    def act(self, seen: Sequence[ActorInput], generator: torch.Generator, deterministic: bool) -> np.ndarray:
        """Choose every agent's action, sampled or most probable.

        Args:
            seen: each agent's observations of all B environments.
            generator: random stream of sampled actions.
            deterministic: take the most probable actions.

        Returns:
            (B, W) float32, the joint action, of width W.
        """
        actions: dict[int, np.ndarray] = {}
        for team in self._teams:
            if len(team) > 1:
                actions |= self._act_together(team, seen, generator, deterministic)
            else:
                actions[team[0]] = self.members[team[0]].act(seen[team[0]], generator, deterministic)
        return np.concatenate([actions[q] for q in range(len(self.members))], axis=1)

    @torch.no_grad()
    def _act_together(
        self, team: Sequence[int], seen: Sequence[ActorInput], generator: torch.Generator, deterministic: bool
    ) -> dict[int, np.ndarray]:
        policies = [self._policies[q] for q in team]
        outputs = own_outputs(policies, torch.from_numpy(np.stack([seen[q].observation for q in team])))
        masks = [seen[q].action_mask for q in team]
        if any(mask is not None for mask in masks):
            every = np.ones(outputs.shape[1:], dtype=bool)
            allowed = np.stack([every if mask is None else mask for mask in masks])
            outputs = outputs.masked_fill(~torch.from_numpy(allowed), MASKED)
        group = policies[0].groups[policies[0].own_group]
        heads = group.block(outputs.transpose(0, 1), torch.cat([policy.own_log_std for policy in policies]))
        actions = (heads.mode() if deterministic else heads.sample(generator)).numpy()
        return {q: actions[:, k] for k, q in enumerate(team)}


def own_outputs(policies: Sequence[JointPolicy], observations: Tensor) -> Tensor:
    """Outputs of the own heads of policies of the same shape, by one batched matrix product a layer.

    Args:
        policies: G of them, whose networks have the same shape and are not recurrent.
        observations: (G, B, O), each policy's, of size O in B environments.

    Returns:
        (G, B, size of an own head).
    """
    networks = [policy.network for policy in policies if isinstance(policy.network, MLP)]
    function = networks[0].hidden
    *hidden, last = zip(*(network.linear_layers for network in networks), strict=True)
    values = function.normalized(observations)
    for layers in hidden:
        values = function(_affine(values, [layer.weight for layer in layers], [layer.bias for layer in layers]))
    own = list(zip(last, (policy.own_outputs for policy in policies), strict=True))
    return _affine(values, [layer.weight[rows] for layer, rows in own], [layer.bias[rows] for layer, rows in own])


def _affine(values: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    return torch.baddbmm(torch.stack(list(biases)).unsqueeze(1), values, torch.stack(list(weights)).mT)


def _alike(policies: Sequence[JointPolicy]) -> list[list[int]]:
    """Group agents whose policies can be evaluated in one batch; a recurrent one is alone."""
    teams: dict[Any, list[int]] = {}
    for q, policy in enumerate(policies):
        network = policy.network
        key: Any = q
        if type(policy) is JointPolicy and isinstance(network, MLP):
            shapes = tuple(layer.weight.shape for layer in network.linear_layers)
            key = (shapes, network.hidden, policy.groups[policy.own_group].space)
        teams.setdefault(key, []).append(q)
    return list(teams.values())
