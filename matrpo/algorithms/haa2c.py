"""HAA2C: heterogeneous-agent advantage actor-critic (Zhong et al., section 3.5.1 and Algorithm 5)."""

from __future__ import annotations

from matrpo.algorithms.shared.haml import HAML
from matrpo.algorithms.shared.mirror import Mirror, NoDrift, PolicySpace


class HAA2C(HAML):
    """Agents in turn ascend E[r M] (r: ratio, M: compound advantage) by gradient, `policy_epochs` passes: eq. (13)."""

    settings_read = HAML.settings_read | PolicySpace.settings_read

    def mirror(self) -> Mirror:
        return Mirror(NoDrift(), PolicySpace())
