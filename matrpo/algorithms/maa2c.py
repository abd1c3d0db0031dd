"""MAA2C: multi-agent advantage actor-critic with a centralised critic (Papoudakis et al.; eq. (2) of Zhong et al.)."""

from __future__ import annotations

from matrpo.algorithms.shared.mirror import Mirror, NoDrift, PolicySpace
from matrpo.algorithms.shared.simultaneous import Simultaneous


class MAA2C(Simultaneous):
    """All agents at once ascend E[r^k A] (r^k: agent k's ratio, A: advantage) by gradient, `policy_epochs` passes."""

    settings_read = Simultaneous.settings_read | PolicySpace.settings_read

    def mirror(self) -> Mirror:
        return Mirror(NoDrift(), PolicySpace())
