"""HATD3: heterogeneous-agent twin delayed deterministic policy gradient (Zhong et al., section 3.5.3, Algorithm 7)."""

from __future__ import annotations

from matrpo.algorithms.haddpg import HADDPG
from matrpo.algorithms.shared.deterministic import TwinDelayed


class HATD3(TwinDelayed, HADDPG):
    """HADDPG's sequential policy updates with TD3's twin critics, delay and target smoothing."""

    settings_read = TwinDelayed.settings_read | HADDPG.settings_read
