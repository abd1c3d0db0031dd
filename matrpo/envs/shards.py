"""Joins the shards of a batch of environments, one for each environment server, into one batch.

The steps and metrics are the same, to the bit, however many shards (parts) there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from matrpo.envs.reward_scale import scale_of
from matrpo.envs.shared import AgentStep, SharedEnvironment, episode_metrics

_LARGEST = ("time", "seconds_startup", "seconds_rollout", "agents_absent", "steps_substituted")
_SUMS = ("steps_per_second", "rollout_steps_per_second")


def join_steps(steps: Sequence[AgentStep]) -> AgentStep:
    """Concatenate one agent's steps of all parts at the end of an iteration.

    Args:
        steps: of each part, in the order of their environments; with `moments`, if there are several.
    """
    if len(steps) == 1:
        return steps[0]
    moments = np.concatenate([_given(step.moments) for step in steps])
    finals = [step.observation if step.final_observation is None else step.final_observation for step in steps]
    return AgentStep(
        observation=np.concatenate([step.observation for step in steps]),
        reward=np.concatenate([step.reward for step in steps]),
        reward_scale=np.array([scale_of(moments)], dtype=np.float32),
        terminated=np.concatenate([step.terminated for step in steps]),
        truncated=np.concatenate([step.truncated for step in steps]),
        final_observation=None if all(step.final_observation is None for step in steps) else np.concatenate(finals),
        joint_action=np.concatenate([step.joint_action for step in steps]),
        action_mask=_join_masks([step.action_mask for step in steps], [len(step.reward) for step in steps]),
        begins=None if all(step.begins is None for step in steps) else np.concatenate([step.ended for step in steps]),
    )


def take_share(shared: SharedEnvironment) -> dict[str, Any]:
    """A part's metrics since the last call: those of its own episodes, and in `share` what `join_lines` needs."""
    names, episodes, moments = shared.env.statistics, shared.take_episodes(), shared.moments
    own = episode_metrics(episodes, shared.spec.agents, names, scale_of(moments))
    return {**own, "share": {"episodes": episodes.tolist(), "moments": moments.tolist(), "statistics": list(names)}}


def join_lines(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The metrics of the whole batch, from those of its parts, in the order of their environments."""
    if len(lines) == 1:
        return dict(lines[0])
    shares = [line["share"] for line in lines]
    moments = [np.array(share["moments"]) for share in shares]
    agents, names = list(lines[0]["agent_return_mean"]), shares[0]["statistics"]
    firsts = np.cumsum([0, *map(len, moments)])
    parts = []
    for share, first in zip(shares, firsts, strict=False):
        episodes = np.array(share["episodes"]).reshape(-1, 3 + len(agents) + len(names))
        episodes[:, 1] += first
        parts.append(episodes)
    together = np.concatenate(parts)
    in_order = together[np.lexsort((together[:, 1], together[:, 0]))]
    joined = {key: value for key, value in lines[0].items() if key != "share"}
    joined |= episode_metrics(in_order, agents, names, scale_of(np.concatenate(moments)))
    for keys, function in ((_LARGEST, max), (_SUMS, sum)):
        found = {key: [line[key] for line in lines if key in line] for key in keys}
        joined |= {key: function(values) for key, values in found.items() if values}
    return joined


def _given(moments: np.ndarray | None) -> np.ndarray:
    if moments is None:
        raise ValueError("a part of a batch came without the moments of its returns")
    return moments


def _join_masks(masks: Sequence[np.ndarray | None], sizes: Sequence[int]) -> np.ndarray | None:
    """The action masks concatenated; a part without any allows every action."""
    width = next((mask.shape[1] for mask in masks if mask is not None), None)
    if width is None:
        return None
    whole = [
        np.ones((size, width), dtype=bool) if mask is None else mask for mask, size in zip(masks, sizes, strict=True)
    ]
    return np.concatenate(whole)
