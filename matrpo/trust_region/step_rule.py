"""The length of a trust-region step, eqs. (47) to (51) of the MATRPO paper."""

from __future__ import annotations

import math
from dataclasses import dataclass

from matrpo.settings.sections import TrustRegionSettings


@dataclass(frozen=True)
class StepRule:
    """The length s of the local step x = s H^{-1} V (H the Fisher matrix, V the gradient).

    Attributes:
        kl_step: delta/N, the agent's trust region.
        penalty: `|E(q)| beta`, the agent's number of links times the ADMM penalty; 0 without links.
        literal: take the first value always, as (22) prints it.
    """

    kl_step: float
    penalty: float
    literal: bool = False

    def __call__(self, quadratic: float) -> float:
        """s for quadratic = V^T H^{-1} V.

        While the KL constraint binds, (51): sqrt(2 (delta/N) / V^T H^{-1} V). Where lambda in (50) would be negative
        the constraint is slack, lambda = 0, and (47) gives `1 / (|E(q)| beta)`.
        """
        if not quadratic > 0.0:
            return 0.0
        boundary = math.sqrt(2.0 * self.kl_step / quadratic)
        if self.literal or self.penalty == 0.0:
            return boundary
        return min(boundary, 1.0 / self.penalty)


def make_step_rule(kl_step: float, penalty: float, settings: TrustRegionSettings) -> StepRule:
    """The step length of an agent with that trust region and penalty `|E(q)| beta`."""
    return StepRule(kl_step, penalty, settings.step_rule == "paper")
