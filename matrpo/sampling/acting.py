"""Actors, which sample actions from policies in batched environments: of one agent, or of all agents in one process."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
        policy: as given.
        state: (B, size), the policy's recurrent states before the next step.
        outputs: (B, size), the network's outputs at the last step; in a `Team`, those of the own head.
    """

    def __init__(self, policy: JointPolicy, num_envs: int) -> None:
        self.policy = policy
        self.state = torch.zeros(num_envs, policy.network.state_size)
        self.outputs = torch.zeros(num_envs, policy.network.output_layer.out_features)

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
        outputs, states = self.policy.network.unroll(inputs.unsqueeze(0), starts.unsqueeze(0), self.state)
        self.state, self.outputs = self._merged(states[1], rows), outputs[0]
        mask = None if seen.action_mask is None else self._whole(seen.action_mask, rows)
        head = self.policy.own_head_of(outputs[0], mask)
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
        groups = _alike(policies)
        self._teams = [(ids, _team([self.members[q] for q in ids])) for ids in groups if len(ids) > 1]
        self._alone = [ids[0] for ids in groups if len(ids) == 1]

    def refresh(self) -> None:
        """Take the policies' parameters as they are now, after an update."""
        for _, team in self._teams:
            if isinstance(team, StackedPolicies):
                team.refresh()

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
        for ids, team in self._teams:
            actions |= zip(ids, team.act([seen[q] for q in ids], generator, deterministic), strict=True)
        for q in self._alone:
            actions[q] = self.members[q].act(seen[q], generator, deterministic)
        return np.concatenate([actions[q] for q in range(len(self.members))], axis=1)


class Team(ABC):
    """G agents whose networks are evaluated in one batch, with the same action space."""

    def __init__(self, members: Sequence[Actor]) -> None:
        policy = members[0].policy
        self._members = members
        self._block = policy.groups[policy.own_group].block

    @abstractmethod
    def outputs(self, seen: Sequence[ActorInput]) -> tuple[Tensor, Tensor]:
        """Outputs of the own heads at the agents' observations, (G, B, size), and log standard deviations, (G, size).

        Recurrent states advance by a step.
        """

    @torch.no_grad()
    def act(self, seen: Sequence[ActorInput], generator: torch.Generator, deterministic: bool) -> np.ndarray:
        """As `Actors.act`, each agent's actions apart: (G, B, width of one agent's)."""
        outputs, log_std = self.outputs(seen)
        for member, own in zip(self._members, outputs, strict=True):
            member.outputs = own
        masks = [each.action_mask for each in seen]
        if any(mask is not None for mask in masks):
            every = np.ones(outputs.shape[1:], dtype=bool)
            allowed = np.stack([every if mask is None else mask for mask in masks])
            outputs = outputs.masked_fill(~torch.from_numpy(allowed), MASKED)
        heads = self._block(outputs.transpose(0, 1), log_std)
        actions = heads.mode() if deterministic else heads.sample(generator)
        chosen: np.ndarray = actions.transpose(0, 1).numpy()
        return chosen


class SharedRecurrentPolicy(Team):
    """G agents with one recurrent policy in common, which sees them as one agent in more environments."""

    def outputs(self, seen: Sequence[ActorInput]) -> tuple[Tensor, Tensor]:
        count, policy = len(seen), self._members[0].policy
        inputs = torch.from_numpy(np.concatenate([each.observation for each in seen]))
        starts = torch.from_numpy(np.concatenate([each.ended for each in seen]))
        states = torch.cat([member.state for member in self._members])
        outputs, states = policy.network.unroll(inputs.unsqueeze(0), starts.unsqueeze(0), states)
        for member, state in zip(self._members, states[1].chunk(count), strict=True):
            member.state = state
        own = outputs[0, :, policy.own_outputs]
        return own.view(count, -1, own.shape[1]), policy.own_log_std.expand(count, -1)


class StackedPolicies(Team):
    """G agents with feedforward policies of one shape, or one in common: a layer of all is one batched product.

    To a policy in common they are one agent in more environments.
    """

    def __init__(self, members: Sequence[Actor]) -> None:
        super().__init__(members)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """As `Actors.refresh`."""
        policies = list(dict.fromkeys(member.policy for member in self._members))
        networks = [policy.network for policy in policies if isinstance(policy.network, MLP)]
        self._function = networks[0].hidden
        *hidden, last = zip(*(network.linear_layers for network in networks), strict=True)
        parts = [[(layer.weight, layer.bias) for layer in layers] for layers in hidden]
        own = zip(last, (policy.own_outputs for policy in policies), strict=True)
        parts.append([(layer.weight[rows], layer.bias[rows]) for layer, rows in own])
        self._layers = [_stacked(layer) for layer in parts]
        self._log_std = torch.cat([policy.own_log_std for policy in policies])

    def outputs(self, seen: Sequence[ActorInput]) -> tuple[Tensor, Tensor]:
        *hidden, (last_weight, last_bias) = self._layers
        inputs = torch.from_numpy(np.concatenate([each.observation for each in seen]))
        values = self._function.normalized(inputs.view(len(last_weight), -1, inputs.shape[1]))
        for weight, bias in hidden:
            values = self._function.apply_(torch.baddbmm(bias, values, weight))
        outputs = torch.baddbmm(last_bias, values, last_weight)
        return outputs.view(len(seen), -1, outputs.shape[2]), self._log_std.expand(len(seen), -1)


def _stacked(layers: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Weights and biases of G linear layers of one shape: (G, inputs, outputs) and (G, 1, outputs)."""
    weights, biases = zip(*layers, strict=True)
    return torch.stack(weights).mT.contiguous(), torch.stack(biases).unsqueeze(1)


def _team(members: Sequence[Actor]) -> Team:
    recurrent = not isinstance(members[0].policy.network, MLP)
    return SharedRecurrentPolicy(members) if recurrent else StackedPolicies(members)


def _alike(policies: Sequence[JointPolicy]) -> list[list[int]]:
    """Group agents that have one policy in common, or policies of one shape; a recurrent one of its own is alone."""
    teams: dict[Any, list[int]] = {}
    for q, policy in enumerate(policies):
        network = policy.network
        key: Any = id(policy)
        if type(policy) is JointPolicy and isinstance(network, MLP) and policies.count(policy) == 1:
            shapes = tuple(layer.weight.shape for layer in network.linear_layers)
            key = (shapes, network.hidden, policy.groups[policy.own_group].space)
        teams.setdefault(key, []).append(q)
    return list(teams.values())
