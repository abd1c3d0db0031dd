"""Taking, delivering and reappearing by hand, and the rewards of (23) in states that tell its readings apart."""

from __future__ import annotations

import numpy as np
import pytest

from matrpo.envs.particle.collect_treasure import CollectTreasureEnv, collect_treasure_spec
from matrpo.envs.particle.treasure import TreasureEnv, treasure_spec
from matrpo.errors import ConfigError


def place(env: TreasureEnv, entities: dict[int, tuple[float, float]], **arrays: list[int]) -> None:
    """Put entities of environment 0 at the given places, all others far away and apart, and set other state."""
    env.reset()
    state = env.state_dict()
    for entity in range(state["positions"].shape[1]):
        state["positions"][:, entity, 0] = entities.get(entity, (3.0 + entity, 3.0))
    state["velocities"][...] = 0.0
    for key, values in arrays.items():
        state[key][:, 0] = values
    env.load_state_dict(state)


def eight(**arrays: list[int]) -> dict[str, list[int]]:
    return {"holding": [-1] * 6, "colours": [0, 1] * 3, "away": [0] * 6} | arrays


def test_two_hunters_at_one_treasure_leave_it_to_the_first() -> None:
    env = TreasureEnv(8, 1, seed=0)
    place(env, {1: (0.0, 0.0), 4: (0.02, 0.0), 8: (0.01, 0.0)}, **eight(colours=[1, 0, 0, 0, 0, 0]))
    env.step(env.spec.noop(1))
    state = env.state_dict()
    assert state["holding"][:, 0].tolist() == [-1, 1, -1, -1, -1, -1]
    assert state["away"][:, 0].tolist() == [True, False, False, False, False, False]
    assert state["positions"][:, 8, 0].tolist() == [-999.0, -999.0]


def test_a_hunter_at_two_treasures_takes_the_first_and_leaves_the_second_to_others() -> None:
    env = TreasureEnv(8, 1, seed=0)
    # Hunter 0 touches treasures 0 and 1; hunter 2 touches treasure 1; hunter 3 treasures 0, 1 and 2.
    places = {0: (0.0, 0.0), 2: (0.09, 0.0), 3: (0.0, 0.04), 8: (-0.03, 0.03), 9: (0.03, 0.03), 10: (0.0, 0.1)}
    place(env, places, **eight(colours=[0, 1, 1, 0, 0, 0]))
    env.step(env.spec.noop(1))
    state = env.state_dict()
    assert state["holding"][:, 0].tolist() == [0, -1, 1, 1, -1, -1]
    assert state["away"][:, 0].tolist() == [True, True, True, False, False, False]


def test_a_loaded_hunter_takes_nothing() -> None:
    env = TreasureEnv(8, 1, seed=0)
    place(env, {0: (0.0, 0.0), 8: (0.0, 0.0)}, **eight(holding=[1, -1, -1, -1, -1, -1]))
    env.step(env.spec.noop(1))
    assert env.state_dict()["holding"][0, 0] == 1
    assert not env.state_dict()["away"].any()


def test_a_treasure_reappears_after_one_step_anywhere_in_any_colour() -> None:
    env = TreasureEnv(8, 500, seed=0)
    env.reset()
    state = env.state_dict()
    state["away"][...] = True
    state["positions"][:, 8:] = -999.0
    env.load_state_dict(state)
    env.step(env.spec.noop(500))
    state = env.state_dict()
    assert not state["away"].any()
    places = state["positions"][:, 8:]
    assert len(np.unique(places)) == 2 * 6 * 500
    assert 0.94 < places.max() <= 0.95
    assert -0.95 <= places.min() < -0.94
    assert abs(places.mean()) < 0.02
    assert abs(state["colours"].mean() - 0.5) < 0.03


def test_a_bank_takes_its_own_colour_only() -> None:
    env = TreasureEnv(8, 1, seed=0)
    # Both hunters touch bank 0 (agent 6), at radii of 0.05 and 0.075; one holds colour 0, the other colour 1.
    place(env, {0: (0.12, 0.0), 1: (-0.12, 0.0), 6: (0.0, 0.0)}, **eight(holding=[0, 1, -1, -1, -1, -1]))
    env.step(env.spec.noop(1))
    assert env.state_dict()["holding"][:, 0].tolist() == [-1, 1, -1, -1, -1, -1]


def test_banks_are_paid_per_treasure_taken_and_per_bank_that_received() -> None:
    env = TreasureEnv(8, 1, seed=0)
    # Hunters 0 and 1 deliver to bank 0, hunter 2 to bank 1; hunter 3 takes treasure 0. Hunters 4 and 5 overlap, and
    # hunter 4 is 0.5 from treasure 1, the nearest of any empty hunter.
    places = {
        0: (0.1, 0.0),
        1: (-0.1, 0.0),
        6: (0.0, 0.0),
        2: (1.0, 1.0),
        7: (1.0, 1.1),
        3: (-1.0, 1.0),
        8: (-1.0, 1.0),
    }
    places |= {4: (0.0, -1.0), 5: (0.05, -1.0), 9: (-0.3, -1.4)}
    place(env, places, **eight(holding=[0, 0, 1, -1, -1, -1]))
    rewards = env.step(env.spec.noop(1)).rewards[0]
    np.testing.assert_allclose(rewards[6:], 5 * (1 + 2) - 0.1 * 0.5, atol=1e-12)
    assert rewards[:6].tolist() == [0.0, 0.0, 0.0, 0.0, -1.0, -1.0]


def test_a_hunter_is_fined_once_however_many_it_overlaps_and_banks_do_not_count() -> None:
    env = TreasureEnv(8, 1, seed=0)
    places = {0: (-0.09, 0.0), 1: (0.0, 0.0), 2: (0.09, 0.0), 6: (1.0, 0.0), 7: (1.0, 0.0), 3: (1.0, 0.0)}
    place(env, places, **eight(holding=[0] * 6))
    rewards = env.step(env.spec.noop(1)).rewards[0]
    assert rewards[:6].tolist() == [-1.0, -1.0, -1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("holding", "away"), [([1] * 6, [0] * 6), ([-1] * 6, [1] * 6)])
def test_the_distance_term_is_zero_without_an_empty_hunter(holding: list[int], away: list[int]) -> None:
    env = TreasureEnv(8, 1, seed=0)
    place(env, {}, **eight(holding=holding, away=away))
    rewards = env.step(env.spec.noop(1)).rewards[0, 6:]
    if all(away):
        assert (rewards < 0).all(), "they have reappeared by the time rewards are paid"
    else:
        assert (rewards == 0).all()


def test_with_every_treasure_away_there_is_no_distance() -> None:
    for env in (TreasureEnv(2, 1, seed=0), CollectTreasureEnv(2, 1, seed=0)):
        env.reset()
        state = env.state_dict()
        state["positions"][:, :, 0] = [[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
        env.load_state_dict(state)
        # The only hunter takes the only treasure.
        rewards = env.step(env.spec.noop(1)).rewards[0]
        assert env.state_dict()["away"].all()
        np.testing.assert_allclose(rewards, [0.0, 5.0] if isinstance(env, TreasureEnv) else [4.8, 4.8], atol=1e-12)


def test_an_observation_sorts_treasures_and_keeps_agents_in_order() -> None:
    env = TreasureEnv(8, 1, seed=0)
    agents = {q: (0.5 * q, 0.25) for q in range(8)}
    treasures = {8 + k: (float(5 - k), 1.0) for k in range(6)} | {10: (-999.0, -999.0)}
    place(env, agents | treasures, **eight(colours=[0, 1, 1, 0, 0, 1], away=[0, 0, 1, 0, 0, 0], holding=[1] * 6))
    hunter, bank = env.observe()[0][0], env.observe()[7][0]
    assert hunter[:4].tolist() == [0.0, 0.25, 0.0, 0.0]
    nearest = [(0.0, 5), (1.0, 4), (2.0, 3), (4.0, 1), (5.0, 0)]
    colours = np.eye(2)[[0, 1, 1, 0, 0, 1]]
    expected = [value for x, k in nearest for value in (x, 0.75, *colours[k])] + [0.0] * 4
    assert hunter[4:28].tolist() == expected
    assert hunter[28:42].tolist() == [value for q in range(1, 8) for value in (0.5 * q, 0.0)]
    assert hunter[42:].tolist() == [0.0, 1.0]
    assert bank[:4].tolist() == [3.5, 0.25, 0.0, 0.0]
    assert bank[4:8].tolist() == [0.5, 0.75, 0.0, 1.0]
    assert bank[28:].tolist() == [value for q in range(7) for value in (0.5 * q - 3.5, 0.0)]


@pytest.mark.parametrize(("num_agents", "hunters"), [(2, 1), (3, 2), (7, 6), (8, 6), (12, 9), (24, 18)])
def test_a_quarter_of_the_agents_are_banks(num_agents: int, hunters: int) -> None:
    spec = treasure_spec(num_agents)
    assert [name.split("_")[0] for name in spec.agents] == ["hunter"] * hunters + ["bank"] * (num_agents - hunters)
    assert spec.episode_length == 100


def test_too_few_or_too_many_agents_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="at least 2, a hunter and a bank"):
        treasure_spec(1)
    for num_agents in (1, 28):
        with pytest.raises(ConfigError, match="2 to 27"):
            collect_treasure_spec(num_agents)
