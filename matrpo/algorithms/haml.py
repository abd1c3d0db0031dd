"""Where users' code imports mirror learning from; see `matrpo.algorithms.shared`."""

from matrpo.algorithms.shared.haml import HAML as HAML
