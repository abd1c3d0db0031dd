"""One reward scale for all agents: the running standard deviation of the discounted team return.

It is measured where the environment is stepped; agents divide by it where they estimate advantages.
"""

from __future__ import annotations

import math

import numpy as np

_LEAST_RATIO = 0.1


class RewardScale:
    """The running standard deviation of returns, over all environments and all steps so far.

    In each environment R <- gamma R + sum_q r^q, starting from 0 in each episode; the scale is the standard
    deviation of all values that R has had: Welford's algorithm in each environment, pooled by `scale_of`. So parts of
    a batch that are measured apart give the same scale, to the bit, as the whole.

    Args:
        gamma: the discount.
        num_envs: B.
    """

    def __init__(self, gamma: float, num_envs: int) -> None:
        self._gamma = gamma
        self._returns = np.zeros(num_envs)
        self._moments = np.zeros((3, num_envs))

    @property
    def value(self) -> float:
        """The scale, above 0."""
        return scale_of(self._moments.T)

    @property
    def moments(self) -> np.ndarray:
        """(B, 3) float64: in each environment the number of values of R, their mean, and their squared deviations."""
        return self._moments.T.copy()

    def update(self, team_rewards: np.ndarray, ended: np.ndarray) -> None:
        """Count one more step: the rewards summed over agents, (B,), and where the episode ended, (B,) bool."""
        self._returns = self._gamma * self._returns + team_rewards
        count, mean, squares = self._moments
        count += 1.0
        shift = self._returns - mean
        mean += shift / count
        squares += shift * (self._returns - mean)
        self._returns[ended] = 0.0

    def forget_episodes(self) -> None:
        """Reset the running returns for new episodes in all environments; the statistics stay."""
        self._returns[...] = 0.0

    def state_dict(self) -> dict[str, np.ndarray]:
        """The statistics and the returns of the running episodes."""
        return {"returns": self._returns.copy(), "moments": self.moments}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Continue exactly where `state_dict` was taken."""
        self._returns = state["returns"].copy()
        moments = state["moments"]
        if moments.ndim == 1:  # of a version that pooled them at once: each environment had the same share
            moments = moments / np.array([len(self._returns), 1.0, len(self._returns)])
        self._moments[...] = moments.T


def scale_of(moments: np.ndarray) -> float:
    """The reward scale pooled over environments with these `RewardScale.moments`, (B, 3); above 0.

    It is never below a tenth of the root mean square of all values, which keeps it away from 0 while there are few or
    they hardly differ, and it is 1 as long as no reward has been seen.
    """
    count, mean, squares = np.ascontiguousarray(moments.T)
    total = np.add.reduce(count)
    if total == 0:
        return 1.0
    common = np.add.reduce(count * mean) / total
    variance = np.add.reduce(squares + count * np.square(mean - common)) / total
    return math.sqrt(max(variance, _LEAST_RATIO**2 * (variance + common**2))) or 1.0
