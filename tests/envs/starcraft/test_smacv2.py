"""SMACv2 up to the door of StarCraft II: with stand-ins for its wrapper, and with the package where it is installed."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from matrpo.envs.registry import make_env, task_spec
from matrpo.envs.starcraft import smacv2
from matrpo.envs.starcraft.smacv2 import BATTLES, CapabilityGame, make_smacv2
from matrpo.errors import ConfigError
from matrpo.spaces import Discrete

installed = pytest.mark.skipif(
    importlib.util.find_spec("smacv2") is None, reason="SMACv2 is not installed, and not on PyPI"
)


class CannotResetError(Exception):
    """Units do not get onto the map."""


class Units:
    """Draws a team for both sides, and mixes it by a generator that nobody seeds, as SMACv2 does."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng()

    def generate(self) -> dict[str, Any]:
        team = self.rng.choice(["marine", "medivac"], 5)
        np.random.default_rng().shuffle(team)
        return {"team_gen": {"ally_team": list(team), "enemy_team": [*team, "marauder"], "id": 0}}


class Places:
    """Draws by the generator of a part of it."""

    def __init__(self) -> None:
        self.inner = SimpleNamespace(rng=np.random.default_rng(), generate=None)

    def generate(self) -> dict[str, Any]:
        return {"ally_start_positions": {"item": self.inner.rng.uniform(size=(5, 2)), "id": 0}}


class Wrapper:
    """The interface of SMACv2's wrapper and of the game in it, with 5 terran units against 6."""

    n_agents, shield_bits_ally, unit_type_bits = 5, 0, 3

    def __init__(self, failures: int = 0, **options: Any) -> None:
        self.options, self.failures = options, failures
        self.env_key_to_distribution_map = {"team_gen": Units(), "start_positions": Places()}
        self.env = self
        self.begun: list[dict[str, Any]] = []
        self.steps = 0

    def get_env_info(self) -> dict[str, int]:
        return {"obs_shape": 90, "n_actions": 12, "n_agents": 5, "episode_limit": 200}

    def reset(self, config: dict[str, Any]) -> None:
        if self.failures:
            self.failures -= 1
            raise CannotResetError
        self.begun.append(config)
        self.steps = 0

    def step(self, _actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        self.steps += 1
        return 2.5, self.steps == 3, {"battle_won": self.steps == 3}

    def get_obs(self) -> list[np.ndarray]:
        return [np.full(90, self.steps) for _ in range(5)]

    def get_state(self) -> np.ndarray:
        return np.arange(5 * 7 + 6 * 6.0)

    def get_avail_actions(self) -> list[list[int]]:
        return [[0] + [1] * 11] * 5

    def close(self) -> None:
        pass


@pytest.fixture
def wrapper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smacv2, "_package", lambda: (Wrapper, CannotResetError))
    monkeypatch.setitem(BATTLES, "duel", smacv2.Battle("terran", 5, 6))


def test_battles_have_the_sizes_of_smacv2() -> None:
    assert len(BATTLES) == 18
    spec = task_spec("smac/10gen_terran", None)
    assert (spec.num_agents, spec.episode_length) == (10, 200)
    assert spec == task_spec("smac/terran_10_vs_10", None).__class__(**{**vars(spec), "name": "smac/10gen_terran"})
    # Of the package: observations and actions.
    known = {"terran_5_vs_5": (82, 11), "protoss_5_vs_5": (92, 11), "zerg_20_vs_23": (346, 29)}
    for name, (size, actions) in known.items():
        spec = task_spec(f"smac/{name}", None)
        assert set(spec.observation_sizes) == {size}
        assert set(spec.action_spaces) == {Discrete(actions)}


@pytest.mark.usefixtures("wrapper")
def test_what_is_drawn_is_a_function_of_seed_game_and_episode() -> None:
    def drawn(seed: int, num_envs: int) -> list[list[dict[str, Any]]]:
        env = make_smacv2("smac/duel", num_envs, seed)
        env.reset()
        for _ in range(7):
            env.step(np.ones((num_envs, 5), dtype=np.float32))
        return [game.begun for game in env._games]

    (first, second), (again,), (other,) = drawn(1, 2), drawn(1, 1), drawn(2, 1)
    assert str(first) == str(again)
    assert len(first) == 3
    assert len({str(config) for config in [*first, *second, *other]}) == 9
    for config in first:
        team = config["team_gen"]
        assert team["enemy_team"] == [*team["ally_team"], "marauder"]
    options = make_smacv2("smac/duel", 2, 1)._games[1].options
    assert options["capability_config"]["n_enemies"] == 6
    assert options["map_name"] == "10gen_terran"
    assert options["continuing_episode"]


@pytest.mark.usefixtures("wrapper")
def test_a_battle_is_played_as_one_of_smac() -> None:
    env = make_smacv2("smac/duel", 1, seed=0)
    env.reset()
    steps = [env.step(np.ones((1, 5), dtype=np.float32)) for _ in range(3)]
    assert steps[2].terminated.all()
    assert steps[2].statistics is not None
    assert steps[2].statistics.tolist() == [[1.0]]
    assert steps[2].rewards.tolist() == [[0.5] * 5]
    assert steps[2].final_observations is not None
    assert steps[2].final_observations[0][0, 0] == 3.0
    # "FP": the observation, and of the state all but the own unit's health and type.
    views = env.agent_states(env.state(), env.observe())
    assert views[1][0, 90:].tolist() == [*range(7), 8, 9, 10, *range(14, 71)]
    env.close()


def test_units_that_do_not_get_onto_the_map_are_drawn_again() -> None:
    wrapper = Wrapper(failures=9)
    CapabilityGame(wrapper, 3, CannotResetError).reset()
    assert len(wrapper.begun) == 1
    undisturbed = Wrapper()
    CapabilityGame(undisturbed, 3, CannotResetError).reset()
    assert str(undisturbed.begun) != str(wrapper.begun)
    with pytest.raises(CannotResetError):
        CapabilityGame(Wrapper(failures=10), 3, CannotResetError).reset()


@pytest.mark.usefixtures("wrapper")
def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BATTLES, "duel", smacv2.Battle("terran", 5, 7))
    with pytest.raises(ConfigError, match="the installed SMACv2 has obs_shape 90 on smac/duel, not 98: run pip inst"):
        make_smacv2("smac/duel", 1, 0)


def test_without_the_package_or_the_game_it_says_where_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smacv2.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(
        ConfigError, match=r"not on PyPI: run pip install 'matrpo\[smacv2\]'.*oxwhirl/smacv2$"
    ) as caught:
        make_env("smac/10gen_zerg", None, 1, 0)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(smacv2.importlib.util, "find_spec", lambda _name: object())
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    assert f"StarCraft II is not in {tmp_path}: install version" in str(smacv2.problem())
    for made in ("Versions/Base75689/SC2_x64", "Maps/SMAC_Maps/32x32_flat.SC2Map"):
        assert smacv2.problem() is not None
        (tmp_path / made).mkdir(parents=True)
    assert smacv2.problem() is None


def test_a_package_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(smacv2.importlib.sys.modules, "smacv2", None)
    with pytest.raises(ConfigError, match=r"SMACv2 cannot be imported \(.*\): run pip install") as caught:
        make_smacv2("smac/10gen_zerg", 1, 0)
    assert "\n" not in str(caught.value)


@installed
def test_every_battle_is_as_the_package_has_it() -> None:
    for name in BATTLES:
        env = make_smacv2(f"smac/{name}", 1, seed=0)
        assert env.spec == task_spec(f"smac/{name}", None)
        assert env._games[0].get_env_info()["cap_shape"] == 3


@installed
def test_the_package_draws_as_its_configurations_say_and_by_the_seed() -> None:
    def game(seed: int) -> Any:
        return make_smacv2("smac/terran_5_vs_5", 1, seed)._games[0]

    one, same, other = game(1), game(1), game(2)
    drawn = []
    for episode in range(300):
        for each in (one, same, other):
            each._episode = episode
        drawn.append(one.draw())
        assert str(same.draw()) == str(drawn[-1]) != str(other.draw())
        drawn.append(other.draw())
    units = Counter(unit for config in drawn for unit in config["team_gen"]["ally_team"])
    shares = np.array([units[kind] for kind in ("marine", "marauder", "medivac")]) / 3000
    np.testing.assert_allclose(shares, [0.45, 0.45, 0.1], atol=0.04)
    assert not any(set(config["team_gen"]["ally_team"]) == {"medivac"} for config in drawn)
    assert all(config["team_gen"]["enemy_team"] == config["team_gen"]["ally_team"] for config in drawn)
    surrounded = sum((config["ally_start_positions"]["item"] == 16.0).all() for config in drawn)
    assert 240 < surrounded < 360


@installed
def test_the_package_without_the_game_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    env = make_smacv2("smac/zerg_5_vs_5", 2, seed=0)
    with pytest.raises(ConfigError, match=r"StarCraft II could not be started for smac/zerg_5_vs_5 .*SMACv2's maps"):
        env.reset()
