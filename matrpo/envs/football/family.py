"""The family of Google Research Football's scenarios, `football/<scenario>`."""

from __future__ import annotations

from importlib.util import find_spec

from matrpo.envs.family import Family, KnownTask, Requirement
from matrpo.envs.football.football_env import FootballEnv
from matrpo.envs.football.scenarios import PREFIX, SCENARIOS, Scenario
from matrpo.envs.vector_env import VectorEnv


def _task(scenario: Scenario) -> KnownTask:
    def make(num_agents: int, num_envs: int, seed: int) -> VectorEnv:
        return FootballEnv(scenario.spec(num_agents), num_envs, seed)

    return KnownTask(
        scenario.task,
        scenario.description,
        scenario.default_agents,
        fixed=False,
        describe=scenario.spec,
        build=make,
    )


def _problem() -> str | None:
    """What is missing, and what to do, in one line; None if nothing is."""
    missing = [module for module in ("gfootball", "gfootball_engine") if find_spec(module) is None]
    if not missing:
        return None
    return (
        f"not installed: {', '.join(missing)}; `pip install --no-build-isolation 'matrpo[football]'` compiles it, with "
        "what docs/football.md says"
    )


FAMILY = Family(
    pattern=f"{PREFIX}<scenario>",
    description="Google Research Football",
    needs=Requirement("matrpo[football]", _problem),
    tasks=tuple(map(_task, SCENARIOS)),
)
