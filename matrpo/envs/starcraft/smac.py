"""The StarCraft Multi-Agent Challenge (Samvelyan et al., 2019): oxwhirl's `smac`, B games stepped at once."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from matrpo.envs import counter_rng
from matrpo.envs.family import Family, KnownTask, Requirement, fixed_task
from matrpo.envs.task_names import unknown_task
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.errors import ConfigError
from matrpo.spaces import Discrete, TaskSpec


@dataclass(frozen=True)
class Map:
    """A SMAC map: the units and the time limit of its battle.

    Attributes:
        allies, enemies: units; the allies are the agents.
        limit: steps after which it is cut off.
        ally_shields, enemy_shields: whether a side's units have shields (Protoss), 0 or 1.
        types: kinds of unit to tell apart, 0 if all are of one kind.
    """

    allies: int
    enemies: int
    limit: int
    ally_shields: int
    enemy_shields: int
    types: int

    @property
    def observation_size(self) -> int:
        """Length of an observation: moves, enemies, other allies, and the agent's own unit."""
        others = (self.allies - 1) * (5 + self.ally_shields + self.types)
        return 4 + self.enemies * (5 + self.enemy_shields + self.types) + others + 1 + self.ally_shields + self.types

    @property
    def num_actions(self) -> int:
        """Number of actions: no-op, stop, four moves, and one for each enemy."""
        return 6 + self.enemies


MAPS: dict[str, Map] = {
    "2s3z": Map(5, 5, 120, 1, 1, 2),
    "3s5z": Map(8, 8, 150, 1, 1, 2),
    "10m_vs_11m": Map(10, 11, 150, 0, 0, 0),
    "MMM2": Map(10, 12, 180, 0, 0, 3),
    "3m": Map(3, 3, 60, 0, 0, 0),
    "8m": Map(8, 8, 120, 0, 0, 0),
    "25m": Map(25, 25, 150, 0, 0, 0),
    "5m_vs_6m": Map(5, 6, 70, 0, 0, 0),
    "8m_vs_9m": Map(8, 9, 120, 0, 0, 0),
    "27m_vs_30m": Map(27, 30, 180, 0, 0, 0),
    "MMM": Map(10, 10, 150, 0, 0, 3),
    "1c3s5z": Map(9, 9, 180, 1, 1, 3),
    "3s5z_vs_3s6z": Map(8, 9, 170, 1, 1, 2),
    "3s_vs_3z": Map(3, 3, 150, 1, 1, 0),
    "3s_vs_4z": Map(3, 4, 200, 1, 1, 0),
    "3s_vs_5z": Map(3, 5, 250, 1, 1, 0),
    "2m_vs_1z": Map(2, 1, 150, 0, 1, 0),
    "corridor": Map(6, 24, 400, 1, 0, 0),
    "6h_vs_8z": Map(6, 8, 150, 0, 1, 0),
    "2s_vs_1sc": Map(2, 1, 300, 1, 0, 0),
    "so_many_baneling": Map(7, 32, 100, 1, 0, 0),
    "bane_vs_bane": Map(24, 24, 200, 0, 0, 2),
    "2c_vs_64zg": Map(2, 64, 400, 1, 0, 0),
}
"""Every map of SMAC, those of the MATRPO paper first."""

_INSTALL = "run pip install 'matrpo[smac]', which takes it from https://github.com/oxwhirl/smac"
_INSTALL_GAME = (
    "install version 4.10 and SMAC's maps as https://github.com/oxwhirl/smac says, and set SC2PATH to its folder"
)


class SmacEnv(VectorEnv):
    """B vectorised games of one map: N allies, the agents, against StarCraft II's built-in AI.

    Actions are no-op, stop, four moves, then one for each enemy to attack (or ally to heal). A dead agent's mask leaves
    it the no-op alone; it observes zeros and goes on being paid until the battle ends. An action that its mask forbids,
    such as the zero that stands in for an absent agent, is replaced by the first that is allowed: stop, or the no-op.

    A battle terminates for every agent when it is won, lost or drawn, and is truncated at the map's limit of steps, or
    where the game itself broke down. The reward is SMAC's shaped one, at most 20 for a battle; each agent receives the
    N-th part, so that the team return is the battle's. `win_rate` is the share of battles won.

    The state for centralised critics is SMAC's own ("EP", environment-provided). `agent_states` is the
    feature-pruned agent-specific one ("FP", Yu et al., MAPPO, 2022): the agent's observation and the state without what
    of the agent's own unit the observation already says (health, shield and type).

    Args:
        spec: the agents.
        games: B games with the interface of SMAC's `StarCraft2Env`, each a process of StarCraft II. They were made with
            `continuing_episode`, so that a game says whether it ended at its limit.
        package: what they come from, by its usual name, and what is to be done if it is another version.
        install_game: what is to be done if StarCraft II is missing.

    Raises:
        ConfigError: the games are others than `spec` says, or, from `reset`, StarCraft II is missing.
    """

    statistics = ("win_rate",)

    def __init__(self, spec: TaskSpec, games: list[Any], package: tuple[str, str], install_game: str) -> None:
        self.spec = spec
        self._games = games
        self._install_game = install_game
        _check_info(spec, games[0].get_env_info(), *package)
        self.num_envs = len(games)
        self._threads = ThreadPoolExecutor(len(games))
        self._frames: list[_Frame] = []

    def reset(self) -> list[np.ndarray]:
        """Begin a new battle in every game, each of which is launched by the first call."""
        try:
            self._frames = list(self._threads.map(_begin, self._games))
        except Exception as error:
            if self._frames:
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(
                f"StarCraft II could not be started for {self.spec.name} ({reason}): {self._install_game}"
            ) from None
        return self.observe()

    def step(self, joint_action: np.ndarray) -> VectorStep:
        self._check_action(joint_action)
        if not self._frames:
            raise RuntimeError("reset the environment before stepping it")
        allowed = np.stack([frame.masks for frame in self._frames])
        actions = joint_action.astype(np.intp)
        forbidden = ~np.take_along_axis(allowed, actions[:, :, None], axis=2)[:, :, 0]
        actions = np.where(forbidden, allowed.argmax(axis=2), actions)
        turns = list(self._threads.map(_advance, self._games, self._frames, actions))
        self._frames = [turn.frame for turn in turns]
        rewards, over, cut = (
            self._each(turns, "reward"),
            self._each(turns, "terminated"),
            self._each(turns, "truncated"),
        )
        step = VectorStep([], rewards / self.spec.num_agents, over, cut, None)
        if step.ended.any():
            step.final_observations, step.final_state = self.observe(), self.state()
            step.statistics = np.array([[float(turn.won)] for turn in turns])
            ended = np.flatnonzero(step.ended).tolist()
            for b, frame in zip(ended, self._threads.map(_begin, [self._games[b] for b in ended]), strict=True):
                self._frames[b] = frame
        step.observations = self.observe()
        return step

    def observe(self) -> list[np.ndarray]:
        return [np.stack([frame.observations[q] for frame in self._frames]) for q in range(self.spec.num_agents)]

    def state(self) -> np.ndarray:
        """SMAC's own state, (B, S) float32."""
        return np.stack([frame.state for frame in self._frames])

    def agent_states(self, state: np.ndarray, observations: list[np.ndarray]) -> list[np.ndarray]:
        """For each agent its observation, then the state without what that says of its own unit: float32."""
        return [
            np.concatenate([observation, state[:, kept]], axis=1)
            for observation, kept in zip(observations, _kept_columns(self._games[0], state.shape[1]), strict=True)
        ]

    def action_masks(self) -> list[np.ndarray | None]:
        return [np.stack([frame.masks[q] for frame in self._frames]) for q in range(self.spec.num_agents)]

    def render(self) -> np.ndarray:
        """SMAC's picture of game 0, (H, W, 3) uint8.

        Raises:
            ConfigError: the installed SMAC draws nothing.
        """
        frame = self._games[0].render(mode="rgb_array")
        if frame is None:
            raise ConfigError(f"task {self.spec.name!r} cannot be drawn: the installed SMAC makes no pictures")
        return np.asarray(frame, dtype=np.uint8)

    def close(self) -> None:
        for game in self._games:
            game.close()
        self._games = []
        self._threads.shutdown()

    def _each(self, turns: list[_Turn], field: str) -> np.ndarray:
        return np.repeat([[getattr(turn, field)] for turn in turns], self.spec.num_agents, axis=1)


@dataclass(frozen=True)
class _Frame:
    """The current outputs of one game: observations (N, O) and state (S,) float32, masks (N, n) bool."""

    observations: np.ndarray
    state: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True)
class _Turn:
    frame: _Frame
    reward: float
    terminated: bool
    truncated: bool
    won: bool


def smac_spec(name: str) -> TaskSpec:
    """Agents and spaces of the task `smac/<map>`; nothing needs to be installed for it.

    Raises:
        ConfigError: there is no such map.
    """
    map_name = name.removeprefix("smac/")
    if map_name not in MAPS:
        raise unknown_task("smac/", map_name, MAPS)
    battle = MAPS[map_name]
    return TaskSpec(
        name=name,
        agents=tuple(f"agent_{q}" for q in range(battle.allies)),
        observation_sizes=(battle.observation_size,) * battle.allies,
        action_spaces=(Discrete(battle.num_actions),) * battle.allies,
        episode_length=battle.limit,
    )


def make_smac(name: str, num_envs: int, seed: int) -> SmacEnv:
    """Build `num_envs` games of the task `smac/<map>`; the game starts with the first `reset`.

    Raises:
        ConfigError: there is no such map, or the package is missing or another one.
    """
    spec, game, map_name = smac_spec(name), _game_class(), name.removeprefix("smac/")
    seeds = game_seeds(seed, num_envs)
    games = [game(map_name=map_name, seed=number, continuing_episode=True) for number in seeds]
    return SmacEnv(spec, games, ("SMAC", _INSTALL), _INSTALL_GAME)


def game_seeds(seed: int, num_envs: int) -> list[int]:
    """The seed of each of B games: 31 bits."""
    words = counter_rng.bits(seed, np.arange(num_envs), np.zeros(num_envs, dtype=np.int64), draws=1)[0]
    return [int(word >> np.uint64(33)) for word in words]


def problem() -> str | None:
    """Why the package is not there, and what to do, in one line; None if it is. It imports nothing."""
    found = importlib.util.find_spec("smac")
    if found is None:
        return f"the StarCraft Multi-Agent Challenge is not installed, and not on PyPI: {_INSTALL}"
    folders = list(found.submodule_search_locations or [])
    if any((Path(folder) / "env" / "starcraft2").is_dir() for folder in folders):
        return None
    return (
        f"the package 'smac' in {', '.join(folders)} is PyPI's, AutoML's optimiser, not the StarCraft Multi-Agent "
        f"Challenge: run pip uninstall smac, then {_INSTALL}"
    )


def game_problem() -> str | None:
    """Why StarCraft II is not there, and what to do, in one line; None if its files are where they are looked for."""
    return missing_game("SMAC's maps", "", _INSTALL_GAME)


def missing_game(maps: str, file: str, install_game: str) -> str | None:
    """Why StarCraft II or its maps are not where they are looked for, in one line; None if they are.

    Args:
        maps: which they are.
        file: one of them; empty for any.
        install_game: what is to be done.
    """
    folder = Path(os.environ.get("SC2PATH", "~/StarCraftII")).expanduser()
    if not any(folder.glob("Versions/Base*/SC2_x64")):
        return f"StarCraft II is not in {folder}: {install_game}"
    if not (folder / "Maps" / "SMAC_Maps" / file).exists():
        return f"{maps} are not in {folder}/Maps/SMAC_Maps: {install_game}"
    return None


def _game_class() -> Any:
    """`smac.env.StarCraft2Env` of oxwhirl's package."""
    if reason := problem():
        raise ConfigError(f"tasks of smac/: {reason}")
    try:
        return importlib.import_module("smac.env").StarCraft2Env
    except (ImportError, TypeError) as error:
        # Generated code that protobuf no longer accepts raises TypeError.
        text = " ".join(str(error).split())
        raise ConfigError(f"the StarCraft Multi-Agent Challenge cannot be imported ({text}): {_INSTALL}") from None


def _check_info(spec: TaskSpec, info: dict[str, Any], package: str, install: str) -> None:
    space = spec.action_spaces[0]
    assert isinstance(space, Discrete)
    expected = {
        "n_agents": spec.num_agents,
        "obs_shape": spec.observation_sizes[0],
        "n_actions": space.n,
        "episode_limit": spec.episode_length,
    }
    for key, value in expected.items():
        if info[key] != value:
            raise ConfigError(f"the installed {package} has {key} {info[key]} on {spec.name}, not {value}: {install}")


def _begin(game: Any) -> _Frame:
    game.reset()
    return _look(game)


def _advance(game: Any, before: _Frame, actions: np.ndarray) -> _Turn:
    reward, ended, info = game.step(actions.tolist())
    if "battle_won" not in info:
        # The game broke down and was started anew: the battle is cut off where it was last seen.
        return _Turn(before, 0.0, terminated=False, truncated=True, won=False)
    cut = bool(info.get("episode_limit", False))
    return _Turn(_look(game), float(reward), bool(ended) and not cut, cut, bool(info["battle_won"]))


def _look(game: Any) -> _Frame:
    return _Frame(
        np.asarray(game.get_obs(), dtype=np.float32),
        np.asarray(game.get_state(), dtype=np.float32),
        np.asarray(game.get_avail_actions(), dtype=bool),
    )


def _kept_columns(game: Any, state_size: int) -> Iterator[np.ndarray]:
    """For each agent, the state's columns that its observation does not hold.

    The state begins with one row for each ally: health, cooldown or energy, x, y, then shield (if any) and type. An
    agent observes its own unit's health, shield and type.
    """
    row = 4 + game.shield_bits_ally + game.unit_type_bits
    observed = np.array([0, *range(4, row)])
    for q in range(game.n_agents):
        yield np.delete(np.arange(state_size), q * row + observed)


def _task(map_name: str) -> KnownTask:
    battle = MAPS[map_name]
    description = f"{battle.allies} against {battle.enemies} that StarCraft II plays"
    return fixed_task(smac_spec(f"smac/{map_name}"), description, make_smac)


FAMILY = Family(
    pattern="smac/<map>",
    description="the StarCraft Multi-Agent Challenge",
    needs=Requirement("matrpo[smac] and StarCraft II", lambda: problem() or game_problem()),
    tasks=tuple(map(_task, MAPS)),
)
