"""MATD3: multi-agent twin delayed deterministic policy gradient (Ackermann et al., "Reducing overestimation bias in
multi-agent domains using double centralized critics", 2019)."""

from __future__ import annotations

from matrpo.algorithms.maddpg import MADDPG
from matrpo.algorithms.shared.deterministic import TwinDelayed


class MATD3(TwinDelayed, MADDPG):
    """MADDPG's simultaneous policy updates with TD3's twin critics, delay and target smoothing."""

    settings_read = TwinDelayed.settings_read | MADDPG.settings_read
