"""Public import path of drifts, neighbourhoods and sampling distributions; `matrpo.algorithms.shared` defines them."""

from matrpo.algorithms.shared.mirror import ClipDrift as ClipDrift
from matrpo.algorithms.shared.mirror import Drift as Drift
from matrpo.algorithms.shared.mirror import KLBall as KLBall
from matrpo.algorithms.shared.mirror import KLDrift as KLDrift
from matrpo.algorithms.shared.mirror import Mirror as Mirror
from matrpo.algorithms.shared.mirror import Neighbourhood as Neighbourhood
from matrpo.algorithms.shared.mirror import NoDrift as NoDrift
from matrpo.algorithms.shared.mirror import Objective as Objective
from matrpo.algorithms.shared.mirror import OnPolicyTrajectories as OnPolicyTrajectories
from matrpo.algorithms.shared.mirror import PolicySpace as PolicySpace
from matrpo.algorithms.shared.mirror import SamplingDistribution as SamplingDistribution
