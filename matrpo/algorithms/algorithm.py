"""Public import path of the algorithms' base class and its types, which `matrpo.algorithms.shared` defines."""

from matrpo.algorithms.shared.algorithm import Algorithm as Algorithm
from matrpo.algorithms.shared.algorithm import JointActor as JointActor
from matrpo.algorithms.shared.algorithm import LearnerState as LearnerState
from matrpo.algorithms.shared.algorithm import UpdateReport as UpdateReport
