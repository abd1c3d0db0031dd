"""The family of VMAS's scenarios, `vmas/<scenario>`."""

from __future__ import annotations

from matrpo.envs.family import Family, KnownTask, both_actions, packages
from matrpo.envs.vector_env import VectorEnv
from matrpo.envs.vmas.scenarios import SCENARIOS, Scenario


def _tasks(scenario: Scenario) -> tuple[KnownTask, KnownTask]:
    def make(num_agents: int, num_envs: int, seed: int, continuous: bool) -> VectorEnv:
        from matrpo.envs.vmas.vmas_env import VmasEnv  # it imports torch

        return VmasEnv(scenario, num_agents, num_envs, seed, continuous)

    return both_actions(
        f"vmas/{scenario.name}",
        scenario.description,
        scenario.default_agents,
        scenario.fewest is None,
        scenario.spec,
        make,
    )


FAMILY = Family(
    pattern="vmas/<scenario>[-continuous]",
    description="multi-robot tasks in torch",
    needs=packages("matrpo[vmas]", "vmas"),
    tasks=tuple(task for scenario in SCENARIOS for task in _tasks(scenario)),
)
