"""gfootball's rewards `scoring,checkpoints`, for a team of N agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

NUM_CHECKPOINTS = 10
WORTH = 0.1
"""What a checkpoint is paid; a goal is paid 1."""

_RADII = 0.99 - 0.8 / (NUM_CHECKPOINTS - 1) * np.arange(NUM_CHECKPOINTS)
_LEFT = 0
"""The team of the agents, in gfootball's `ball_owned_team`."""


class Checkpoints:
    """The circles around the opponents' goal into which each agent has carried the ball in an episode.

    An agent is paid once for each; who scores is owed nothing for those that are left: a goal pays them to all agents.
    Source: `CheckpointRewardWrapper` of gfootball 2.10.2 (Kurach et al., 2020, section "Checkpoints").

    Attributes:
        reached: (N,) int64, how many circles, from the outermost on, each agent has been paid for.
    """

    def __init__(self, num_agents: int) -> None:
        self.reached = np.zeros(num_agents, dtype=np.int64)

    def reward(self, raw: Mapping[str, Any], goals: int) -> float:
        """The mean over the agents of what gfootball pays each for a step, at most 2 for a goal in all.

        Args:
            raw: gfootball's raw observation after the step.
            goals: by how much the goal difference has grown.
        """
        before = self.reached.sum()
        if goals == 1:
            self.reached[:] = NUM_CHECKPOINTS
        elif raw["ball_owned_team"] == _LEFT:
            carries = np.array(raw["left_agent_controlled_player"]) == raw["ball_owned_player"]
            inside = int((np.hypot(raw["ball"][0] - 1.0, raw["ball"][1]) <= _RADII).sum())
            self.reached[carries] = np.maximum(self.reached[carries], inside)
        return float(goals + WORTH * (self.reached.sum() - before) / len(self.reached))
