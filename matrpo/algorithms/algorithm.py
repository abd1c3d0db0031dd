"""Where users' code imports algorithms themselves from; see `matrpo.algorithms.shared`."""

from matrpo.algorithms.shared.algorithm import Algorithm as Algorithm
from matrpo.algorithms.shared.algorithm import LearnerState as LearnerState
from matrpo.algorithms.shared.algorithm import Player as Player
from matrpo.algorithms.shared.algorithm import UpdateReport as UpdateReport
