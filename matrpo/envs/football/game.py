"""One game of Google Research Football in this process: gfootball's core environment, without gym's wrappers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from matrpo.envs.extras import import_extra

_FOREVER = 10**9
"""A duration in place of the scenario's, so that gfootball ends an episode only for another reason."""

_REMEMBERED = ("previous_score_diff", "previous_game_mode", "prev_ball_owned_team")
"""What gfootball's core keeps of the step before, beside the engine's state."""


class Game:
    """A game whose left team is played by N agents, and by the engine where there are more players than agents.

    Args:
        scenario: the name of gfootball's scenario.
        num_agents: N.

    Raises:
        ConfigError: gfootball cannot be imported.
    """

    def __init__(self, scenario: str, num_agents: int) -> None:
        config, core, wrappers = (
            import_extra(f"gfootball.env.{name}", "football") for name in ("config", "football_env_core", "wrappers")
        )
        values = {"level": scenario, "players": [f"agent:left_players={num_agents}"], "game_engine_random_seed": 0}
        self._config = _without_time_limit(config.Config)(values)
        self._core = core.FootballEnvCore(self._config)
        self._convert = wrappers.Simple115StateWrapper.convert_observation

    def begin(self, seed: int, episode: int) -> Mapping[str, Any]:
        """Begin an episode: gfootball's raw observation.

        Args:
            seed: of the engine, 31 bits.
            episode: its number, by which scenarios let the teams take turns at the kick-off.
        """
        self._config.update(
            {
                "game_engine_random_seed": seed,
                # Else it is that of the first seed that the configuration ever had.
                "reverse_team_processing": bool(seed % 2),
                "episode_number": episode,
            }
        )
        self._core.reset(inc=0)
        raw: Mapping[str, Any] = self._core.observation()
        return raw

    def step(self, actions: list[int]) -> tuple[Mapping[str, Any], int, bool]:
        """Let a tenth of a second pass.

        Args:
            actions: of each agent, the index in gfootball's default action set.

        Returns:
            The raw observation, by how much the goal difference has grown, and whether the episode is over.
        """
        raw, goals, over, _ = self._core.step(actions)
        return raw, goals, over

    def save(self) -> bytes:
        """What the rest of the episode depends on; gfootball's own `get_state` would put a pickle into it."""
        numbers = [getattr(self._core._state, name) for name in _REMEMBERED]
        engine: bytes = self._core._env.get_state(b"")
        return np.array(numbers, dtype=np.int64).tobytes() + engine

    def load(self, saved: bytes) -> None:
        """Go on where `save` was called, in an episode that was begun with the same seed and number."""
        numbers = np.frombuffer(saved, dtype=np.int64, count=len(_REMEMBERED))
        for name, number in zip(_REMEMBERED, numbers.tolist(), strict=True):
            setattr(self._core._state, name, number)
        self._core._env.set_state(saved[numbers.nbytes :])
        self._core._retrieve_observation()

    def observations(self, raw: Mapping[str, Any]) -> np.ndarray:
        """The `simple115v2` observation of each agent, (N, 115) float32."""
        views = [{**raw, "active": player} for player in raw["left_agent_controlled_player"]]
        converted: np.ndarray = self._convert(views, fixed_positions=True)
        return converted


def _without_time_limit(base: Any) -> Any:
    """gfootball's class of configurations, but scenarios last forever."""

    class Config(base):  # type: ignore[misc]
        def NewScenario(self, inc: int = 1) -> None:  # noqa: N802 (gfootball's name)
            """Build the scenario of the next episode."""
            super().NewScenario(inc)
            self.ScenarioConfig().game_duration = _FOREVER

    return Config
