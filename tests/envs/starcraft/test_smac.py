import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matrpo.envs.shared import SharedEnvironment
from matrpo.envs.starcraft import smac
from matrpo.envs.starcraft.smac import MAPS, Map, make_smac, smac_spec
from matrpo.envs.vector_env import VectorStep
from matrpo.errors import ConfigError
from matrpo.spaces import Discrete

LIMIT = 6
ALIVE, DEAD = [0, 1, 1, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0]


class FakeGame:
    """The interface of oxwhirl's StarCraft2Env, with two agents, two enemies, shields and two types of unit.

    The first agent dies at its second step. `script[t]` says what happens at step t + 1: "won", "lost" or "broken".
    """

    script: dict[int, str] = {}  # noqa: RUF012
    n_agents, shield_bits_ally, unit_type_bits = 2, 1, 2

    def __init__(self, map_name: str, seed: int | None = None, continuing_episode: bool = False) -> None:
        self.map_name, self.seed, self.continuing_episode = map_name, seed, continuing_episode
        self.episodes, self.time, self.closed = 0, 0, False
        self.received: list[list[int]] = []

    def get_env_info(self) -> dict[str, int]:
        return {"state_shape": 20, "obs_shape": 32, "n_actions": 8, "n_agents": 2, "episode_limit": LIMIT}

    def reset(self) -> tuple[list[np.ndarray], np.ndarray]:
        self.episodes += 1
        self.time = 0
        return self.get_obs(), self.get_state()

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        available = self.get_avail_actions()
        for q, action in enumerate(actions):
            assert type(action) is int
            assert available[q][action] == 1, f"Agent {q} cannot perform action {action}"
        self.received.append(actions)
        event = self.script.get(self.time)
        if event == "broken":
            self.time = 0
            return 0, True, {}
        self.time += 1
        info: dict[str, Any] = {"battle_won": event == "won"}
        if event is None and self.time == LIMIT and self.continuing_episode:
            info["episode_limit"] = True
        return 5.0 if event == "won" else 1.0, event is not None or self.time == LIMIT, info

    def get_obs(self) -> list[np.ndarray]:
        return [np.full(32, 0.0 if q == 0 and self.time >= 2 else 10 * self.episodes + self.time) for q in range(2)]

    def get_state(self) -> np.ndarray:
        return np.arange(20) + 100.0 * self.episodes + 1000 * self.time

    def get_avail_actions(self) -> list[list[int]]:
        return [DEAD if self.time >= 2 else ALIVE, ALIVE]

    def render(self, mode: str) -> np.ndarray:
        assert mode == "rgb_array"
        return np.full((4, 5, 3), self.time, dtype=np.uint8)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def game(monkeypatch: pytest.MonkeyPatch) -> type[FakeGame]:
    fresh = type("FreshGame", (FakeGame,), {"script": {}})
    monkeypatch.setattr(smac, "_game_class", lambda: fresh)
    monkeypatch.setitem(MAPS, "duel", Map(2, 2, LIMIT, 1, 1, 2))
    return fresh


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a package `smac` of the given files and puts it first on the path."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / "smac" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        for name in [name for name in sys.modules if name.split(".")[0] == "smac"]:
            monkeypatch.delitem(sys.modules, name)
        return tmp_path / "smac"

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "smac"]:
        del sys.modules[name]


def run(steps: int, num_envs: int = 2) -> tuple[Any, list[VectorStep]]:
    env = make_smac("smac/duel", num_envs, seed=0)
    env.reset()
    return env, [env.step(np.ones((num_envs, 2), dtype=np.float32)) for _ in range(steps)]


@pytest.mark.usefixtures("game")
def test_the_specification_is_the_games() -> None:
    spec = smac_spec("smac/duel")
    assert spec == make_smac("smac/duel", 1, 0).spec
    assert spec.agents == ("agent_0", "agent_1")
    assert spec.observation_sizes == (32, 32)
    assert spec.action_spaces == (Discrete(8), Discrete(8))
    assert spec.episode_length == LIMIT


@pytest.mark.usefixtures("game")
def test_every_game_has_its_own_seed_and_tells_its_limit_from_its_end() -> None:
    env = make_smac("smac/duel", 3, seed=1)
    assert len({copy.seed for copy in env._games}) == 3
    assert {copy.map_name for copy in env._games} == {"duel"}
    assert all(copy.continuing_episode and 0 <= copy.seed < 2**31 for copy in env._games)
    assert [copy.seed for copy in make_smac("smac/duel", 2, seed=1)._games] == [copy.seed for copy in env._games[:2]]


@pytest.mark.usefixtures("game")
def test_a_battle_at_its_limit_is_truncated_and_its_end_is_kept() -> None:
    env, steps = run(LIMIT + 1)
    assert [step.truncated.all() for step in steps] == [False] * 5 + [True, False]
    assert not any(step.terminated.any() for step in steps)
    last = steps[LIMIT - 1]
    assert last.final_observations is not None
    assert last.final_state is not None
    assert last.statistics is not None
    assert last.final_observations[1][0].tolist() == [16.0] * 32
    assert last.final_state[0].tolist() == (np.arange(20) + 6100.0).tolist()
    assert last.observations[1][0].tolist() == [20.0] * 32
    assert last.statistics.tolist() == [[0.0], [0.0]]
    assert env.state()[0].tolist() == (np.arange(20) + 1200.0).tolist()


@pytest.mark.parametrize(("event", "won"), [("won", 1.0), ("lost", 0.0)])
def test_a_battle_that_is_over_terminates(game: type[FakeGame], event: str, won: float) -> None:
    game.script = {3: event}
    _, steps = run(4)
    assert [step.terminated.all() for step in steps] == [False, False, False, True]
    assert not steps[3].truncated.any()
    assert steps[3].statistics is not None
    assert steps[3].statistics.tolist() == [[won]] * 2


def test_a_game_that_breaks_down_truncates_the_battle_where_it_was_last_seen(game: type[FakeGame]) -> None:
    game.script = {3: "broken"}
    _, steps = run(4)
    assert steps[3].truncated.all()
    assert not steps[3].terminated.any()
    assert not steps[3].rewards.any()
    assert steps[3].final_observations is not None
    assert steps[3].final_observations[1][0].tolist() == [13.0] * 32
    assert steps[3].observations[1][0].tolist() == [20.0] * 32


def test_the_team_return_is_the_battles_and_the_win_rate_is_counted(game: type[FakeGame]) -> None:
    game.script = {2: "won"}
    for reward, paid in (("own", [0.5, 0.5]), ("one-agent", [1.0, 0.0])):
        shared = SharedEnvironment(make_smac("smac/duel", 2, seed=0), 0.99, reward_scaling=False, reward=reward)
        shared.reset()
        for _ in range(3):
            steps = shared.step(np.ones((2, 2), dtype=np.float32))
            assert [float(step.reward[0]) / (1 if steps[0].terminated[0] == 0 else 5) for step in steps] == paid
        metrics = shared.take_metrics()
        assert metrics["team_return_mean"] == 7.0
        assert metrics["win_rate"] == 1.0
        assert shared.state_dict() == {}


@pytest.mark.usefixtures("game")
def test_masks_are_the_games_and_a_forbidden_action_becomes_the_first_allowed() -> None:
    env = make_smac("smac/duel", 1, seed=0)
    env.reset()
    for _ in range(4):
        masks = env.action_masks()
        assert masks[0] is not None
        assert masks[1] is not None
        assert masks[0].tolist() == [[bool(x) for x in (DEAD if env._games[0].time >= 2 else ALIVE)]]
        assert masks[1].tolist() == [[bool(x) for x in ALIVE]]
        # The zeros of an absent agent, and an attack out of range.
        env.step(np.array([[0, 7]], dtype=np.float32))
    assert env._games[0].received == [[1, 1], [1, 1], [0, 1], [0, 1]]
    env.step(np.array([[0, 6]], dtype=np.float32))
    assert env._games[0].received[-1] == [0, 6]


@pytest.mark.usefixtures("game")
def test_agent_states_hold_the_observation_and_of_the_state_what_it_does_not_say() -> None:
    env, _ = run(0, num_envs=3)
    state, observations = env.state(), env.observe()
    first, second = env.agent_states(state, observations)
    # An ally's row: health, cooldown, x, y, shield, two types. The observation says health, shield and type.
    assert first[0, 32:].tolist() == (100.0 + np.array([1, 2, 3, *range(7, 20)])).tolist()
    assert second[0, 32:].tolist() == (100.0 + np.array([*range(7), 8, 9, 10, *range(14, 20)])).tolist()
    np.testing.assert_array_equal(first[:, :32], observations[0])
    assert first.dtype == np.float32


@pytest.mark.usefixtures("game")
def test_returned_arrays_are_never_written_again() -> None:
    env, steps = run(14)
    arrays = [array for step in steps for array in (*step.observations, step.rewards, step.truncated)]
    copies = [array.copy() for array in arrays]
    for _ in range(14):
        env.step(np.ones((2, 2), dtype=np.float32))
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.usefixtures("game")
def test_a_picture_is_the_games_and_closing_ends_all_games() -> None:
    env, _ = run(2)
    assert env.render().tolist() == np.full((4, 5, 3), 2).tolist()
    games = list(env._games)
    env.close()
    env.close()
    assert all(copy.closed for copy in games)


@pytest.mark.usefixtures("game")
def test_stepping_before_a_reset_and_actions_outside_the_space_are_refused() -> None:
    env = make_smac("smac/duel", 1, seed=0)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(env.spec.noop(1))
    env.reset()
    with pytest.raises(ValueError, match="outside"):
        env.step(np.full((1, 2), 8, dtype=np.float32))


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", "/home/me/StarCraftII/Versions"),
        type("SC2LaunchError", (Exception,), {})("No SC2 Versions found\nin /home/me"),
        ValueError("Map 'SMAC_Maps/MMM2.SC2Map' not found."),
    ],
)
def test_without_the_game_it_says_what_to_install(game: type[FakeGame], error: Exception) -> None:
    def reset(_: FakeGame) -> None:
        raise error

    game.reset = reset  # type: ignore[assignment, method-assign]
    env = make_smac("smac/duel", 2, seed=0)
    with pytest.raises(ConfigError, match=r"StarCraft II could not be started .*SC2PATH") as caught:
        env.reset()
    assert type(error).__name__ in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("game")
def test_a_failure_of_a_game_that_ran_is_not_blamed_on_the_user() -> None:
    env, _ = run(1)
    env._games[1].step = None
    with pytest.raises(TypeError):
        env.step(np.ones((2, 2), dtype=np.float32))


def test_without_the_package_it_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "meta_path", [finder for finder in sys.meta_path if not hasattr(finder, "find_distributions")]
    )
    with pytest.raises(ConfigError, match=r"not on PyPI: run pip install 'matrpo\[smac\]'") as caught:
        make_smac("smac/3s5z", 1, 0)
    assert "\n" not in str(caught.value)


def test_automls_optimiser_is_refused_without_being_imported(package: Any) -> None:
    folder = package({"__init__.py": "raise AssertionError('imported')", "facade/__init__.py": ""})
    with pytest.raises(ConfigError, match=r"AutoML's optimiser, not .*: run pip uninstall smac, then") as caught:
        make_smac("smac/3s5z", 1, 0)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    ["import no_such_pysc2", "raise TypeError('Descriptors cannot be created directly.\\nIf this call came from')"],
)
def test_a_package_that_cannot_be_imported_says_why(package: Any, line: str) -> None:
    package({"__init__.py": "", "env/__init__.py": line, "env/starcraft2/__init__.py": ""})
    with pytest.raises(ConfigError, match=r"cannot be imported \((No module|Descriptors).*: run pip install") as caught:
        make_smac("smac/3s5z", 1, 0)
    assert "\n" not in str(caught.value)


def test_the_right_package_is_taken(package: Any) -> None:
    package({"__init__.py": "", "env/__init__.py": "StarCraft2Env = 'the game'", "env/starcraft2/__init__.py": ""})
    assert smac._game_class() == "the game"


@pytest.mark.parametrize(
    ("task", "hint"),
    [
        ("smac/3s5", "did you mean 'smac/3s5z'"),
        ("smac/mmm2", "did you mean 'smac/MMM2'"),
        ("smac/zzz", "expected one of 2s3z, "),
    ],
)
def test_an_unknown_map_is_an_error_with_a_hint(task: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint) as caught:
        make_smac(task, 1, 0)
    assert "\n" not in str(caught.value)


def test_sizes_of_maps() -> None:
    known = {"3m": (30, 9), "8m": (80, 14), "2s3z": (80, 11), "3s5z": (128, 14), "5m_vs_6m": (55, 12)}
    known |= {"MMM2": (176, 18), "10m_vs_11m": (105, 17), "27m_vs_30m": (285, 36), "corridor": (156, 30)}
    assert {name: (MAPS[name].observation_size, MAPS[name].num_actions) for name in known} == known
    assert len(MAPS) == 23


@pytest.mark.usefixtures("game")
def test_an_installed_package_with_another_map_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAPS, "duel", Map(2, 2, 7, 1, 1, 2))
    with pytest.raises(ConfigError, match="episode_limit 6 on smac/duel, not 7"):
        make_smac("smac/duel", 1, 0)
