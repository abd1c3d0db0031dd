"""IPPO: independent PPO (Schröder de Witt et al.; eqs. (3) and (4) of the paper on decentralised PPO)."""

from __future__ import annotations

from matrpo.algorithms.mappo import MAPPO


class IPPO(MAPPO):
    """PPO of each agent by itself: its advantages are by its own critic, of its own observations and rewards.

    With `share_parameters` agents have policy and critic in common.
    """

    central_critic = False
    settings_read = MAPPO.settings_read - {"state_type"}
