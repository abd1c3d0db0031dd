"""HATRPO: heterogeneous-agent trust region policy optimisation (Zhong et al., section 3.2.1, Algorithm 3); r: ratio."""

from __future__ import annotations

from matrpo.algorithms.shared.haml import HAML
from matrpo.algorithms.shared.mirror import KLBall, Mirror, NoDrift


class HATRPO(HAML):
    """Agents in turn maximise E[r M] (M: compound advantage) within mean KL `kl_step` of the old: eqs. (7) and (8)."""

    can_share = False
    settings_read = (HAML.settings_read | KLBall.settings_read) - {"share_parameters", "agent_id"}

    def mirror(self) -> Mirror:
        return Mirror(NoDrift(), KLBall())
