"""Public import path of the base class of on-policy algorithms, which `matrpo.algorithms.shared` defines."""

from matrpo.algorithms.shared.on_policy import OnPolicy as OnPolicy
