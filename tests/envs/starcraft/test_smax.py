import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from matrpo.envs.shared import SharedEnvironment
from matrpo.envs.starcraft.smax import MAPS, SmaxEnv, make_smax, smax_spec
from matrpo.errors import ConfigError
from matrpo.spaces import Discrete

MAP = "smax/3s_vs_5z"
"""The smallest: three allies against five enemies."""


@pytest.fixture(scope="module")
def env() -> SmaxEnv:
    """Two battles; compiled once for all tests, each of which begins with a reset."""
    return make_smax(MAP, num_envs=2, seed=4)


def allowed_actions(env: SmaxEnv, rng: np.random.Generator) -> np.ndarray:
    """Attack if there is whom to, else run right, where the enemies are, or up; the dead stop."""
    columns = []
    for mask in env.action_masks():
        assert mask is not None
        attacks = mask[:, 5:].any(axis=1)
        target = 5 + np.argmax(mask[:, 5:] * rng.random(mask[:, 5:].shape), axis=1)
        columns.append(np.where(attacks, target, np.where(mask[:, 2], rng.integers(1, 3, len(mask)), 0)))
    return np.stack(columns, axis=1).astype(np.float32)


def change(env: SmaxEnv, **changes: Any) -> None:
    """Set arrays of the battles' state: their first battle's, by index or slice, as (where, value)."""
    state = env.state_dict()
    assert state is not None
    for name, (where, value) in changes.items():
        state[f"state.{name}"][where] = value
    env.load_state_dict(state)


def dead(units: slice) -> dict[str, Any]:
    return {"unit_health": ((0, units), 0.0), "unit_alive": ((0, units), False)}


def test_every_step_equals_jaxmarls_own_step_env(env: SmaxEnv) -> None:
    jax, original = env._battle._jax, env._battle._env
    rng = np.random.default_rng(0)
    env.reset()
    ends = 0
    for _ in range(60):
        before, actions, keys = env._state, allowed_actions(env, rng), env._keys()
        # Agent by agent: SMAX numbers stop 4 and the directions 0 to 3.
        smax_actions = [[{0: 4, 1: 0, 2: 1, 3: 2, 4: 3}.get(int(a), int(a)) for a in row] for row in actions]
        step = env.step(actions)
        for b in range(2):
            single = jax.tree.map(lambda leaf, b=b: leaf[b], before)
            key = jax.random.fold_in(keys[b], single.state.step + 1)
            named = dict(zip(original.agents, map(np.int32, smax_actions[b]), strict=True))
            observations, after, rewards, dones, _ = original.step_env(key, single, named)
            seen = step.final_observations if step.ended[b] else step.observations
            world = step.final_state if step.ended[b] else env.state()
            assert seen is not None
            assert world is not None
            np.testing.assert_allclose(world[b], observations["world_state"], rtol=1e-5, atol=1e-5)
            assert step.ended[b] == dones["__all__"]
            for q, agent in enumerate(env.spec.agents):
                np.testing.assert_allclose(seen[q][b], observations[agent], rtol=1e-5, atol=1e-5)
                assert step.rewards[b, q] == pytest.approx(float(rewards[agent]) / 3, abs=1e-6)
                if not step.ended[b]:
                    available = np.asarray(original.get_avail_actions(after)[agent]).astype(bool)
                    mask = env.action_masks()[q]
                    assert mask is not None
                    assert mask[b].tolist() == [available[4], *available[:4], *available[5:]]
        ends += int(step.ended.sum())
    assert ends >= 2, "the comparison should meet ends of battles"


def test_a_won_battle_terminates_and_is_counted(env: SmaxEnv) -> None:
    shared = SharedEnvironment(env, gamma=0.99, reward_scaling=False)
    shared.reset()
    change(env, **dead(slice(3, None)))
    before = env.state_dict()
    steps = shared.step(env.spec.noop(2))
    assert [step.terminated.tolist() for step in steps] == [[True, False]] * 3
    assert not any(step.truncated.any() for step in steps)
    metrics = shared.take_metrics()
    assert metrics["episodes"] == 1
    assert metrics["win_rate"] == 1.0
    assert metrics["team_return_mean"] == pytest.approx(1.0)
    # The next battle has begun, and what the last one looked like is kept.
    after = env.state_dict()
    assert before is not None
    assert after is not None
    assert after["episodes"].tolist() == [before["episodes"][0] + 1, before["episodes"][1]]
    assert after["state.step"].tolist() == [0, 1]
    assert after["state.unit_alive"][0].all()
    assert steps[0].final_observation is not None
    assert not np.array_equal(steps[0].final_observation[0], steps[0].observation[0])
    np.testing.assert_array_equal(steps[0].final_observation[1], steps[0].observation[1])
    assert shared.take_metrics()["win_rate"] is None


@pytest.mark.parametrize("units", [slice(0, 3), slice(None)], ids=["lost", "drawn"])
def test_a_lost_or_drawn_battle_terminates_and_is_not_won(env: SmaxEnv, units: slice) -> None:
    env.reset()
    change(env, **dead(units))
    step = env.step(env.spec.noop(2))
    assert step.terminated[:, 0].tolist() == [True, False]
    assert step.statistics is not None
    assert step.statistics[0].tolist() == [0.0]


def test_a_battle_is_truncated_after_101_steps_and_its_end_is_kept(env: SmaxEnv) -> None:
    env.reset()
    change(env, step=(slice(None), [100, 99]))
    step = env.step(env.spec.noop(2))
    assert step.truncated.tolist() == [[True] * 3, [False] * 3]
    assert not step.terminated.any()
    assert step.statistics is not None
    assert step.statistics[0].tolist() == [0.0]
    assert step.final_state is not None
    assert not np.array_equal(step.final_state[0], env.state()[0])
    np.testing.assert_array_equal(step.final_state[1], env.state()[1])


def test_a_victory_on_the_last_step_is_terminated_not_truncated(env: SmaxEnv) -> None:
    env.reset()
    change(env, step=(0, 100), **dead(slice(3, None)))
    step = env.step(env.spec.noop(2))
    assert step.terminated[0].all()
    assert not step.truncated.any()


def test_a_dead_agent_may_only_stop_sees_nothing_and_is_still_paid(env: SmaxEnv) -> None:
    env.reset()
    change(env, **dead(slice(0, 1)))
    mask = env.action_masks()[0]
    assert mask is not None
    assert mask[0].tolist() == [True] + [False] * 9
    assert mask[1, :5].all()
    assert not env.observe()[0][0].any()
    # An enemy within the second ally's range, and about to die of one shot.
    positions = [[16.0, 16.0], [15.0, 15.0], [5.0, 9.0]]
    change(env, unit_positions=((0, [3, 1, 2]), positions), unit_health=((0, 3), 1.0))
    attack = env.spec.noop(2)
    attack[0, 1] = 5
    step = env.step(attack)
    assert not step.terminated.any()
    assert step.rewards[0].tolist() == [step.rewards[0, 0]] * 3
    assert step.rewards[0, 0] == pytest.approx(1 / 150 / 5 / 3)


def test_one_agent_is_paid_for_all(env: SmaxEnv) -> None:
    shared = SharedEnvironment(env, gamma=0.99, reward_scaling=False, reward="one-agent")
    shared.reset()
    change(env, **dead(slice(3, None)))
    steps = shared.step(env.spec.noop(2))
    assert [float(step.reward[0]) for step in steps] == [pytest.approx(1.0), 0.0, 0.0]
    assert shared.take_metrics()["team_return_mean"] == pytest.approx(1.0)


def test_a_restored_battle_continues_bit_for_bit_and_compiles_nothing_anew(env: SmaxEnv) -> None:
    env.reset()
    rng = np.random.default_rng(1)
    for _ in range(10):
        env.step(allowed_actions(env, rng))
    saved = env.state_dict()
    assert saved is not None
    saved = load(save(saved))
    trajectories = []
    for _ in range(2):
        env.load_state_dict(saved)
        rng, seen = np.random.default_rng(2), [env.observe()[0], env.state()]
        for _ in range(40):
            step = env.step(allowed_actions(env, rng))
            seen += [*step.observations, step.rewards, step.terminated, step.truncated, env.state()]
        trajectories.append(seen)
    for left, right in zip(*trajectories, strict=True):
        np.testing.assert_array_equal(left, right)
    assert env._battle._advance._cache_size() == env._battle._look._cache_size() == 1
    with pytest.raises(ValueError, match="saved state"):
        env.load_state_dict({key: value[:1] for key, value in saved.items()})


def test_no_step_waits_for_the_compiler(env: SmaxEnv) -> None:
    battle = env._battle
    env.reset()
    compiled = [function._cache_size() for function in (battle._advance, battle._restart, battle._look)]
    assert compiled == [1, 1, 1]


def test_returned_arrays_are_never_written_again(env: SmaxEnv) -> None:
    kept = [(array, array.copy()) for array in env.reset()]
    rng = np.random.default_rng(0)
    for _ in range(40):
        step = env.step(allowed_actions(env, rng))
        arrays = [*step.observations, *(step.final_observations or []), step.rewards, step.terminated, env.state()]
        arrays += [mask for mask in env.action_masks() if mask is not None]
        kept += [(array, array.copy()) for array in arrays]
    for array, copy in kept:
        np.testing.assert_array_equal(array, copy)


def test_a_battles_random_numbers_depend_on_seed_environment_and_episode_alone() -> None:
    small, large, other = make_smax(MAP, 2, seed=4), make_smax(MAP, 5, seed=4), make_smax(MAP, 5, seed=5)
    np.testing.assert_array_equal(small._keys(), large._keys()[:2])
    assert len(np.unique(np.concatenate([large._keys(), other._keys()]), axis=0)) == 10
    large._episodes += 1
    assert not (large._keys()[:2] == small._keys()).all(axis=1).any()


def test_a_picture_shows_who_is_alive(env: SmaxEnv) -> None:
    env.reset()
    before = env.render()
    assert before.shape == (350, 350, 3)
    assert before.dtype == np.uint8
    change(env, **dead(slice(3, None)))
    assert np.ptp(env.render().astype(int) - before) > 0


def test_actions_outside_the_space_are_refused(env: SmaxEnv) -> None:
    env.reset()
    with pytest.raises(ValueError, match="outside"):
        env.step(np.full((2, 3), 10, dtype=np.float32))
    with pytest.raises(RuntimeError, match="reset"):
        make_smax(MAP, 2, 0).step(env.spec.noop(2))


@pytest.mark.usefixtures("env")
@pytest.mark.parametrize("map_name", MAPS)
def test_the_table_of_maps_agrees_with_jaxmarl(map_name: str) -> None:
    from jaxmarl.environments.smax import HeuristicEnemySMAX, map_name_to_scenario

    original = HeuristicEnemySMAX(scenario=map_name_to_scenario(map_name))
    spec = smax_spec(f"smax/{map_name}")
    assert spec.agents == tuple(original.agents)
    assert spec.observation_sizes == (original.obs_size,) * original.num_agents
    assert spec.action_spaces == (Discrete(int(original.num_ally_actions)),) * original.num_agents
    assert spec.episode_length == original.max_steps + 1


@pytest.mark.parametrize(
    ("task", "hint"),
    [
        ("smax/3s5", "did you mean 'smax/3s5z'"),
        ("smax/MMM2", "expected one of 2s3z, 3s5z, "),
        ("smax/", "expected one of"),
    ],
)
def test_an_unknown_map_is_an_error_with_a_hint(task: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint) as caught:
        make_smax(task, 1, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ["jax", "jaxmarl.environments.smax"])
def test_without_the_extra_it_says_what_to_install(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"pip install 'matrpo\[smax\]'") as caught:
        make_smax("smax/6h_vs_8z", 1, 0)  # of which no other test leaves the functions
    assert "\n" not in str(caught.value)


def test_environments_of_a_map_share_what_is_compiled() -> None:
    assert make_smax(MAP, 1, 0)._battle is make_smax(MAP, 3, 1)._battle


@pytest.mark.slow
def test_nothing_is_printed_and_compiled_code_is_kept_in_the_users_cache(tmp_path: Path) -> None:
    program = (
        "import sys; from matrpo.envs.starcraft.smax import make_smax, smax_spec;"
        f"smax_spec({MAP!r}); assert 'jax' not in sys.modules;"
        f"env = make_smax({MAP!r}, 1, 0); env._state = env._battle.begin(env._keys());"
        "import jax; assert jax.default_backend() == 'cpu'"
    )
    variables = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert any((tmp_path / "matrpo" / "jax").iterdir())
