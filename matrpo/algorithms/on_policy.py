"""Where users' code imports on-policy algorithms from; see `matrpo.algorithms.shared`."""

from matrpo.algorithms.shared.on_policy import OnPolicy as OnPolicy
