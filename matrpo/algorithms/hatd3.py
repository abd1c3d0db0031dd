"""HATD3: heterogeneous-agent twin delayed deterministic policy gradient (Zhong et al., section 3.5.3, Algorithm 7)."""

from __future__ import annotations

from matrpo.algorithms.haddpg import HADDPG
from matrpo.algorithms.shared.deterministic import TwinDelayed


class HATD3(TwinDelayed, HADDPG):
    """HADDPG's policies, one after another; TD3's critics."""

    settings_read = TwinDelayed.settings_read | HADDPG.settings_read
