"""I-TRPO: independent TRPO (section VI.A of Li & He), which is MATRPO without links or models of others."""

from __future__ import annotations

from matrpo.algorithms.shared.mirror import KLBall, Mirror, NoDrift
from matrpo.algorithms.shared.simultaneous import Simultaneous


class ITRPO(Simultaneous):
    """Agent k maximises E[r^k A^k] (its ratio, its critic's advantage) within mean KL `kl_step` of its old policy."""

    central_critic = False
    can_share = False
    settings_read = (Simultaneous.settings_read | KLBall.settings_read) - {"share_parameters", "agent_id", "state_type"}

    def mirror(self) -> Mirror:
        return Mirror(NoDrift(), KLBall())
