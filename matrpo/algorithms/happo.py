"""HAPPO: heterogeneous-agent proximal policy optimisation (Zhong et al., section 3.2.2 and Algorithm 4)."""

from __future__ import annotations

from matrpo.algorithms.shared.haml import HAML
from matrpo.algorithms.shared.mirror import ClipDrift, Mirror, PolicySpace, clip_range


class HAPPO(HAML):
    """Agents in turn maximise min(r M, clip(r, 1 +- epsilon) M), r: ratio, M: compound advantage; drift of eq. (30)."""

    settings_read = HAML.settings_read | PolicySpace.settings_read | ClipDrift.settings_read

    def mirror(self) -> Mirror:
        return Mirror(ClipDrift(clip_range(self.config, self.spec.num_agents)), PolicySpace())
