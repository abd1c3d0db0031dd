"""HATRPO: heterogeneous-agent trust region policy optimisation (Zhong et al., section 3.2.1 and Algorithm 3)."""

from __future__ import annotations

from matrpo.algorithms.haml import HAML
from matrpo.algorithms.mirror import KLBall, Mirror, NoDrift
from matrpo.config import Config, ConfigError
from matrpo.spaces import TaskSpec


class HATRPO(HAML):
    """Agents maximise E[r M] in turn, within mean KL `kl_step` of their old policies: eqs. (7) and (8)."""

    def __init__(self, spec: TaskSpec, state_sizes: tuple[int, ...], config: Config) -> None:
        if config.share_parameters:
            raise ConfigError(
                "hatrpo: agents step one after another from their own policies: leave share_parameters out"
            )
        super().__init__(spec, state_sizes, config)

    def mirror(self) -> Mirror:
        """No drift, within a KL ball."""
        return Mirror(NoDrift(), KLBall())
