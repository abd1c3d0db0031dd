"""Curves in a process's metrics: a number of each iteration by tag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_TAGS = {
    "team_return_mean": "charts/episodic_return",
    "episode_length_mean": "charts/episodic_length",
    "steps_per_second": "charts/SPS",
    "kl": "losses/approx_kl",
    "surrogate": "losses/surrogate",
    "critic_loss": "losses/value_loss",
    "entropy": "losses/entropy",
    "explained_variance": "losses/explained_variance",
}
"""Tags of curves: CleanRL's names where it has one; every other metric is `details/<its name>`."""


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in a process's metrics of one iteration by tag, as TensorBoard and the trackers show them.

    Args:
        metrics: numbers, None, or mappings of numbers; whatever else a mapping holds is no curve.
    """
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= {f"details/{name}/{key}": item for key, item in value.items() if _is_number(item)}
        elif _is_number(value):
            flat[_TAGS.get(name, f"details/{name}")] = float(value)
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number)
