"""Public import path of mirror learning, which `matrpo.algorithms.shared` defines."""

from matrpo.algorithms.shared.haml import HAML as HAML
