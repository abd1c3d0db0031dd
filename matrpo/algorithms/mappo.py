"""MAPPO: multi-agent PPO with a centralised critic (Yu et al.; eqs. (3) and (4) of the paper on decentralised PPO)."""

from __future__ import annotations

from matrpo.algorithms.shared.mirror import ClipDrift, Mirror, PolicySpace, clip_range
from matrpo.algorithms.shared.simultaneous import Simultaneous


class MAPPO(Simultaneous):
    """All agents at once maximise PPO's clipped objective, each with its own probability ratio: eq. (3).

    With `share_parameters` one policy maximises the sum of them, eq. (4).
    """

    settings_read = Simultaneous.settings_read | PolicySpace.settings_read | ClipDrift.settings_read

    def mirror(self) -> Mirror:
        return Mirror(ClipDrift(clip_range(self.config, self.spec.num_agents)), PolicySpace())
