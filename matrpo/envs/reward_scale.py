"""One reward scale for all agents: the running standard deviation of the discounted team return."""

from __future__ import annotations

import math

import numpy as np

_LEAST_RATIO = 0.1


class RewardScale:
    """Measures how large returns are, over all environments and all steps so far.

    In each environment R <- gamma R + sum_q r^q, starting from 0 in each episode; the scale is the standard
    deviation of all values that R has had, by Welford's algorithm on batches of B. It is never below a tenth of
    their root mean square, which keeps it away from 0 while there are few values or they hardly differ, and it
    is 1 as long as no reward has been seen.

    Args:
        gamma: the discount.
        num_envs: B.
    """

    def __init__(self, gamma: float, num_envs: int) -> None:
        self._gamma = gamma
        self._returns = np.zeros(num_envs)
        self._count = 0.0
        self._mean = 0.0
        self._squares = 0.0

    @property
    def value(self) -> float:
        """The scale, above 0."""
        if self._count == 0:
            return 1.0
        variance = self._squares / self._count
        return math.sqrt(max(variance, _LEAST_RATIO**2 * (variance + self._mean**2))) or 1.0

    def update(self, team_rewards: np.ndarray, ended: np.ndarray) -> None:
        """Count one step: the rewards summed over agents, (B,), and where the episode ended, (B,) bool."""
        self._returns = self._gamma * self._returns + team_rewards
        batch = self._returns.size
        mean = float(self._returns.mean())
        squares = float(np.square(self._returns - mean).sum())
        total = self._count + batch
        shift = mean - self._mean
        self._mean += shift * batch / total
        self._squares += squares + shift * shift * self._count * batch / total
        self._count = total
        self._returns[ended] = 0.0

    def forget_episodes(self) -> None:
        """All environments begin new episodes; the statistics stay."""
        self._returns[...] = 0.0

    def state_dict(self) -> dict[str, np.ndarray]:
        """The statistics and the returns of the running episodes."""
        return {
            "returns": self._returns.copy(),
            "moments": np.array([self._count, self._mean, self._squares]),
        }

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Continue exactly where `state_dict` was taken."""
        self._returns = state["returns"].copy()
        self._count, self._mean, self._squares = (float(moment) for moment in state["moments"])
