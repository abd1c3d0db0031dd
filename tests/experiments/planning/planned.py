"""Constants of a machine that could be, for tests of plans."""

from __future__ import annotations

from matrpo.experiments.planning.cost_constants import Constants
from matrpo.experiments.planning.workload import Products

OPERATION = 3e-11
SECONDS = {
    "act": (3e-4, OPERATION),
    "prepare": (5e-4, OPERATION),
    "consensus": (1e-3, OPERATION, 1e-9),
    "finish": (1e-4, OPERATION),
    "record": (1e-3, 1e-9),
    "step": (2e-4, 1e-9),
    "serve": (1e-4, 2e-9),
}
CONSTANTS = Constants(SECONDS, Products(5.0, 0.1), 2e7, {}, "navigation", (3, 6, 12))
