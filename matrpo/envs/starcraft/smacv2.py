"""SMACv2 (Ellis et al., 2023): oxwhirl's `smacv2`, battles of units and places that are drawn anew for each episode."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from matrpo.envs.family import Family, KnownTask, Requirement, fixed_task
from matrpo.envs.starcraft.smac import Map, SmacEnv, game_seeds, missing_game
from matrpo.errors import ConfigError
from matrpo.spaces import Discrete, TaskSpec

_LIMIT = 200
_MAP = "32x32_flat.SC2Map"
_OWN_PLACE = 2
"""Numbers that an agent observes beside what it does in SMAC: where it is."""

_TRIES = 10
"""How often units and places are drawn if StarCraft II does not get all units onto the map."""


@dataclass(frozen=True)
class Race:
    """The units that a battle of one race draws.

    Attributes:
        units: the kinds of unit, and the probability of each.
        never_alone: kinds that do not make up a whole team.
        shields: whether units have shields, 0 or 1.
    """

    units: dict[str, float]
    never_alone: tuple[str, ...] = ()
    shields: int = 0


RACES = {
    "terran": Race({"marine": 0.45, "marauder": 0.45, "medivac": 0.1}, ("medivac",)),
    "protoss": Race({"stalker": 0.45, "zealot": 0.45, "colossus": 0.1}, shields=1),
    "zerg": Race({"zergling": 0.45, "baneling": 0.1, "hydralisk": 0.45}, ("baneling",)),
}
"""As in SMACv2's own configurations."""

SIZES = ((5, 5), (10, 10), (20, 20), (10, 11), (20, 23))
"""Allies and enemies of SMACv2's scenarios."""


@dataclass(frozen=True)
class Battle:
    """A scenario of SMACv2: `allies`, who are the agents, against `enemies` of the same race."""

    race: str
    allies: int
    enemies: int

    def spec(self, name: str) -> TaskSpec:
        """Agents and spaces of the task of that name."""
        race = RACES[self.race]
        sizes = Map(self.allies, self.enemies, _LIMIT, race.shields, race.shields, len(race.units))
        return TaskSpec(
            name=name,
            agents=tuple(f"agent_{q}" for q in range(self.allies)),
            observation_sizes=(sizes.observation_size + _OWN_PLACE,) * self.allies,
            action_spaces=(Discrete(sizes.num_actions),) * self.allies,
            episode_length=_LIMIT,
        )

    def options(self) -> dict[str, Any]:
        """SMACv2's options of the game, with what its configurations call capabilities."""
        race = RACES[self.race]
        return {
            "map_name": f"10gen_{self.race}",
            "capability_config": {
                "n_units": self.allies,
                "n_enemies": self.enemies,
                "team_gen": {
                    "dist_type": "weighted_teams",
                    "unit_types": list(race.units),
                    "weights": list(race.units.values()),
                    "exception_unit_types": list(race.never_alone),
                    "observe": True,
                },
                "start_positions": {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32},
            },
            "obs_own_pos": True,
            "use_unit_ranges": True,
            "min_attack_range": 2,
        }


BATTLES = {
    **{f"10gen_{race}": Battle(race, 10, 10) for race in RACES},
    **{f"{race}_{n}_vs_{m}": Battle(race, n, m) for race in RACES for n, m in SIZES},
}
"""Every scenario of SMACv2, those first that are named after a map, with as many units as that says."""

_INSTALL = "run pip install 'matrpo[smacv2]', which takes it from https://github.com/oxwhirl/smacv2"
_INSTALL_GAME = (
    "install version 4.10 and SMACv2's maps as https://github.com/oxwhirl/smacv2 says, and set SC2PATH to its folder"
)


class CapabilityGame:
    """A game of SMACv2 in which what is drawn for episode e is a function of the game's seed and e.

    Otherwise it is what SMACv2's own wrapper is, whose generators have no seed: units by `weighted_teams`, places by
    `surrounded_and_reflect`, half of the episodes either.

    Args:
        wrapper: `StarCraftCapabilityEnvWrapper`.
        seed: of the game.
        failure: what SMACv2 raises where units do not get onto the map.
    """

    def __init__(self, wrapper: Any, seed: int, failure: type[Exception]) -> None:
        self._wrapper = wrapper
        self._seed = seed
        self._failure = failure
        self._episode = -1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapper, name)

    def reset(self) -> None:
        """Begin the next episode; with other units and places if these do not get onto the map."""
        self._episode += 1
        for attempt in range(_TRIES):
            try:
                self._wrapper.env.reset(self.draw(attempt))
                return
            except self._failure:
                if attempt == _TRIES - 1:
                    raise

    def draw(self, attempt: int = 0) -> dict[str, Any]:
        """Units and places of the episode, as `StarCraft2Env.reset` takes them."""
        seeds = np.random.default_rng([self._seed, self._episode, attempt])
        drawn: dict[str, Any] = {}
        for distribution in self._wrapper.env_key_to_distribution_map.values():
            for part in _parts(distribution):
                part.rng = np.random.default_rng(seeds.integers(2**63))
            drawn |= distribution.generate()
        # SMACv2 has shuffled them by Python's global generator.
        team = drawn["team_gen"]
        allies, further = team["ally_team"], team["enemy_team"][len(team["ally_team"]) :]
        allies, further = ([str(unit) for unit in seeds.permutation(sorted(units))] for units in (allies, further))
        return drawn | {"team_gen": team | {"ally_team": allies, "enemy_team": allies + further}}


def _parts(distribution: Any) -> Iterator[Any]:
    """A distribution, and those of which it is made, that draw."""
    if hasattr(distribution, "rng"):
        yield distribution
    for part in vars(distribution).values():
        if hasattr(part, "generate"):
            yield from _parts(part)


def make_smacv2(name: str, num_envs: int, seed: int) -> SmacEnv:
    """Build `num_envs` games of a task; StarCraft II starts with the first `reset`.

    Raises:
        ConfigError: the package is missing or another version.
    """
    battle = BATTLES[name.removeprefix("smac/")]
    wrapper, failure = _package()
    games = [
        CapabilityGame(wrapper(**battle.options(), seed=number, continuing_episode=True), number, failure)
        for number in game_seeds(seed, num_envs)
    ]
    return SmacEnv(battle.spec(name), games, ("SMACv2", _INSTALL), _INSTALL_GAME)


def problem() -> str | None:
    """What is missing, and what to do, in one line; None if nothing is. It imports nothing."""
    if importlib.util.find_spec("smacv2") is None:
        return f"SMACv2 is not installed, and not on PyPI: {_INSTALL}"
    return missing_game(f"SMACv2's maps, {_MAP} for one,", _MAP, _INSTALL_GAME)


def _package() -> tuple[Any, type[Exception]]:
    """`StarCraftCapabilityEnvWrapper`, and what it raises where units do not get onto the map."""
    try:
        wrapper = importlib.import_module("smacv2.env.starcraft2.wrapper")
        return wrapper.StarCraftCapabilityEnvWrapper, wrapper.CannotResetException
    except (ImportError, TypeError) as error:
        # Generated code that protobuf no longer accepts raises TypeError.
        text = " ".join(str(error).split())
        raise ConfigError(f"SMACv2 cannot be imported ({text}): {_INSTALL}") from None


def _task(name: str) -> KnownTask:
    battle = BATTLES[name]
    units = f"{battle.allies} against {battle.enemies} {battle.race.capitalize()} units, drawn anew for each episode"
    return fixed_task(battle.spec(f"smac/{name}"), units, make_smacv2)


FAMILY = Family(
    pattern="smac/10gen_<race>, smac/<race>_<n>_vs_<m>",
    description="SMACv2, whose battles differ from episode to episode",
    needs=Requirement("matrpo[smacv2] and StarCraft II", problem),
    tasks=tuple(map(_task, BATTLES)),
)
