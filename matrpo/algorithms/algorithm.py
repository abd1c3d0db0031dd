"""Where users' code imports algorithms themselves from; see `matrpo.algorithms.shared`."""

from matrpo.algorithms.shared.algorithm import Algorithm as Algorithm
from matrpo.algorithms.shared.algorithm import JointActor as JointActor
from matrpo.algorithms.shared.algorithm import LearnerState as LearnerState
from matrpo.algorithms.shared.algorithm import UpdateReport as UpdateReport
