import random
import sys

import numpy as np
import pytest
import torch
import vmas
from safetensors.numpy import load, save

from matrpo.envs import counter_rng
from matrpo.envs.conformance.guarded import check_env
from matrpo.envs.registry import make_env, task_spec
from matrpo.envs.vmas.family import FAMILY
from matrpo.envs.vmas.scenarios import SCENARIOS, Scenario
from matrpo.envs.vmas.vmas_env import VmasEnv
from matrpo.errors import ConfigError
from matrpo.spaces import Box, TaskSpec

SEED = 7
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
HANDFUL = ("balance", "wheel", "dispersion", "simple_crypto", "diff_drive", "give_way")
"""Scenarios of all kinds of spaces that are quick to build."""
SMALL = {"road_traffic": 3, "pollock": 3}
"""Numbers of agents for scenarios that are slow with their own."""


def build(name: str, num_envs: int, seed: int = SEED, continuous: bool = True) -> VmasEnv:
    scenario = BY_NAME[name]
    return VmasEnv(scenario, SMALL.get(name, scenario.default_agents), num_envs, seed, continuous)


def random_actions(spec: TaskSpec, num_envs: int, rng: np.random.Generator) -> np.ndarray:
    """Joint actions, (B, W), anywhere within the bounds."""
    columns = [
        rng.uniform(space.low, space.high, (num_envs, space.size))
        if isinstance(space, Box)
        else rng.integers(0, space.sizes, (num_envs, 1))
        for space in spec.action_spaces
    ]
    return np.concatenate(columns, axis=1).astype(np.float32)


class ByHand:
    """VMAS's own environments, stepped as its users do, whose episodes begin as matrpo's."""

    def __init__(self, name: str, num_envs: int, limit: int, continuous: bool) -> None:
        self.env = vmas.make_env(
            name, num_envs, continuous_actions=continuous, max_steps=limit, terminated_truncated=True, seed=0
        )
        self._episodes = np.full(num_envs, -1)
        for b in range(num_envs):
            self.begin(b)

    def begin(self, b: int) -> None:
        self._episodes[b] += 1
        word = counter_rng.bits(SEED, np.array([b]), self._episodes[b : b + 1], draws=1)[0, 0]
        self.env.seed(int(word >> np.uint64(32)))
        self.env.reset_at(b)

    def observe(self) -> list[np.ndarray]:
        [observations] = self.env.get_from_scenario(True, False, False, False)
        return [observation.numpy() for observation in observations]


@pytest.mark.parametrize(
    ("name", "continuous"),
    [("transport", True), ("wheel", False), ("balance", True), ("navigation", False), ("flocking", True)],
)
def test_episodes_are_those_of_vmas_stepped_by_hand(name: str, continuous: bool) -> None:
    limit, num_envs = 6, 3
    env, hand = build(name, num_envs, continuous=continuous), ByHand(name, num_envs, limit, continuous)
    env.limit_episodes(limit)
    rng = np.random.default_rng(0)
    for own, theirs in zip(env.reset(), hand.observe(), strict=True):
        np.testing.assert_allclose(own, theirs, atol=1e-5)
    ended = 0
    for _ in range(2 * limit + 1):
        actions = random_actions(env.spec, num_envs, rng)
        step = env.step(actions)
        parts = [torch.from_numpy(actions[:, part]) for part in env.spec.action_slices]
        last, rewards, over, late, _ = hand.env.step(parts)
        np.testing.assert_allclose(
            step.rewards, torch.stack([one.reshape(num_envs) for one in rewards], dim=1).numpy(), atol=1e-5
        )
        np.testing.assert_array_equal(step.terminated, over.numpy()[:, None].repeat(env.spec.num_agents, 1))
        np.testing.assert_array_equal(step.cut, (late & ~over).numpy())
        np.testing.assert_array_equal(step.ended, (late | over).numpy())
        for b in np.flatnonzero(step.ended).tolist():
            hand.begin(b)
        for own, theirs in zip(step.observations, hand.observe(), strict=True):
            np.testing.assert_allclose(own, theirs, atol=1e-5)
        if step.ended.any():
            assert step.final_observations is not None
            for own, theirs in zip(step.final_observations, last, strict=True):
                np.testing.assert_allclose(own, theirs, atol=1e-5)
        ended += int(step.ended.sum())
    assert ended >= 2 * num_envs


def check_spaces(env: VmasEnv) -> None:
    """Check the written down spaces against VMAS's own."""
    original = env._env
    assert tuple(space.shape[0] for space in original.observation_space) == env.spec.observation_sizes
    for own, theirs in zip(env.spec.action_spaces, original.action_space, strict=True):
        if isinstance(own, Box):
            np.testing.assert_array_equal(np.array([own.low, own.high], dtype=np.float32), [theirs.low, theirs.high])
        else:
            assert own.sizes == (theirs.n,)


@pytest.mark.parametrize("name", HANDFUL)
@pytest.mark.parametrize("continuous", [False, True])
def test_a_handful_of_scenarios_is_as_written_down(name: str, continuous: bool) -> None:
    env = build(name, 2, continuous=continuous)
    check_spaces(env)
    check_env(env, env.spec.name)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
@pytest.mark.parametrize("continuous", [False, True])
def test_every_scenario_is_as_written_down_and_can_be_played(scenario: Scenario, continuous: bool) -> None:
    num_agents = SMALL.get(scenario.name, scenario.default_agents)
    for agents in {num_agents} if scenario.fewest is None else {num_agents, scenario.fewest}:
        checked, env, again = (VmasEnv(scenario, agents, 2, SEED, continuous) for _ in range(3))
        check_spaces(checked)
        check_env(checked, checked.spec.name)
        for one in (env, again):
            one.limit_episodes(4)
        assert_same_episodes([env], [again], 10)


def assert_same_episodes(some: list[VmasEnv], others: list[VmasEnv], steps: int) -> None:
    """Check that batches, side by side, have the same episodes, to the bit, as other batches, side by side."""
    rng = np.random.default_rng(1)
    for env in some + others:
        env.reset()
    spec, num_envs = some[0].spec, sum(env.num_envs for env in some)
    for _ in range(steps):
        actions = random_actions(spec, num_envs, rng)
        np.testing.assert_array_equal(side_by_side(some, actions), side_by_side(others, actions))


def side_by_side(envs: list[VmasEnv], actions: np.ndarray) -> np.ndarray:
    """A step of several batches: observations, final observations, rewards and flags, (B, ...)."""
    rows = []
    for env, part in zip(envs, np.split(actions, np.cumsum([env.num_envs for env in envs])[:-1]), strict=True):
        step = env.step(part)
        finals = [np.where(step.ended[:, None], final, 0.0) for final in step.final_observations or ()]
        finals = finals or [np.zeros_like(observation) for observation in step.observations]
        rows.append(
            np.concatenate([*step.observations, *finals, step.rewards, step.terminated, step.truncated], axis=1)
        )
    return np.concatenate(rows)


def split(name: str, sizes: tuple[int, ...]) -> list[VmasEnv]:
    """The parts of a batch, of so many environments each, with episodes of four steps."""
    envs = []
    for first, size in zip(np.cumsum((0, *sizes)).tolist(), sizes, strict=False):
        env = build(name, size)
        env.limit_episodes(4)
        env.number_from(first)
        envs.append(env)
    return envs


def test_parts_of_a_batch_have_its_episodes_to_the_bit() -> None:
    assert_same_episodes(split("balance", (5,)), split("balance", (1, 4)), 6)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [one for one in SCENARIOS if one.independent], ids=lambda one: one.name)
def test_parts_of_every_scenario_that_can_be_split_have_its_episodes(scenario: Scenario) -> None:
    assert_same_episodes(split(scenario.name, (17,)), split(scenario.name, (2, 15)), 13)


def test_a_scenario_whose_environments_share_what_is_random_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match="'vmas/het_mass-continuous' cannot be split: expected 1 for 'env_servers'"):
        make_env("vmas/het_mass-continuous", None, 2, SEED, first=2)


def test_another_seed_has_other_episodes_and_each_episode_begins_anew() -> None:
    env, other = build("navigation", 2), build("navigation", 2, SEED + 1)
    first = env.reset()
    assert not np.array_equal(first[0], other.reset()[0])
    assert not np.array_equal(first[0][0], first[0][1])
    assert not np.array_equal(first[0], env.reset()[0])


def global_states() -> list[object]:
    name, keys, *rest = np.random.get_state()
    return [torch.get_rng_state().tolist(), (name, keys.tolist(), *rest), random.getstate(), torch.get_num_threads()]


def test_the_global_generators_are_left_as_they_were() -> None:
    before = global_states()
    env = build("het_mass", 2)
    env.limit_episodes(2)
    env.reset()
    for _ in range(3):
        env.step(env.spec.noop(2))
    assert global_states() == before


def test_environments_of_one_process_do_not_disturb_each_other() -> None:
    """VMAS keeps one stream of random numbers for all of them."""
    alone, disturbed, other = (build("discovery", 2) for _ in range(3))
    for env in (alone, disturbed, other):
        env.limit_episodes(3)
        env.reset()
    rng = np.random.default_rng(2)
    actions = [random_actions(alone.spec, 2, rng) for _ in range(5)]
    expected = [side_by_side([alone], action) for action in actions]
    for action, rows in zip(actions, expected, strict=True):
        other.step(action[::-1].copy())
        np.testing.assert_array_equal(side_by_side([disturbed], action), rows)


def test_an_episode_terminates_where_the_scenario_says_so_and_the_others_go_on() -> None:
    env = build("balance", 3)
    env.reset()
    actions = env.spec.noop(3)
    actions[0, 0::2] = -1.0  # the agents of the first environment walk away from under the line
    step = env.step(actions)
    for _ in range(60):
        if not step.ended.any():
            step = env.step(actions)
    assert step.ended.tolist() == [True, False, False]
    assert step.terminated[0].all()
    assert not step.truncated.any()
    assert step.final_observations is not None
    for final, first in zip(step.final_observations, step.observations, strict=True):
        assert not np.array_equal(final[0], first[0])
        np.testing.assert_array_equal(final[1:], first[1:])


def test_actions_beyond_the_bounds_are_clipped_and_the_callers_array_is_left_alone() -> None:
    env, other = build("give_way", 2), build("give_way", 2)
    env.reset()
    other.reset()
    actions = np.full((2, 4), 3.0, dtype=np.float32)
    step = env.step(actions)
    assert (actions == 3.0).all()
    np.testing.assert_array_equal(step.observations[0], other.step(np.full_like(actions, 0.5)).observations[0])


def test_the_first_discrete_action_is_to_do_nothing() -> None:
    still, free = build("transport", 2, continuous=False), build("transport", 2)
    still.reset()
    free.reset()
    step, same = still.step(still.spec.noop(2)), free.step(free.spec.noop(2))
    np.testing.assert_array_equal(step.observations, same.observations)


def test_an_environment_has_to_be_reset_first() -> None:
    env = build("wheel", 2)
    with pytest.raises(RuntimeError, match="reset the environment before stepping it"):
        env.step(env.spec.noop(2))


def test_every_scenario_of_vmas_is_listed_with_both_kinds_of_actions() -> None:
    known = {*vmas.scenarios, *vmas.debug_scenarios, *vmas.mpe_scenarios}
    assert known == set(BY_NAME)
    assert {task.name for task in FAMILY.tasks} == {
        f"vmas/{name}{end}" for name in known for end in ("", "-continuous")
    }


@pytest.mark.parametrize(("task", "agents", "expected"), [("balance", 1, "at least 2"), ("give_way", 3, "exactly 2")])
def test_a_number_of_agents_that_a_scenario_cannot_have_is_refused(task: str, agents: int, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"bad value {agents} for 'agents': task 'vmas/{task}' has {expected}"):
        make_env(f"vmas/{task}", agents, 1, SEED)


def test_the_number_of_agents_is_the_scenarios() -> None:
    env = make_env("vmas/simple_spread", 5, 1, SEED)
    assert env.spec == task_spec("vmas/simple_spread", 5)
    assert [len(observation[0]) for observation in env.reset()] == [22] * 5


def test_what_vmas_cannot_make_is_a_mistake_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise FileNotFoundError("no map\nof the roads")

    monkeypatch.setattr(vmas, "make_env", broken)
    with pytest.raises(ConfigError, match=r"task 'vmas/road_traffic' with 20 agents: .*no map") as caught:
        make_env("vmas/road_traffic", None, 1, SEED)
    assert "\n" not in str(caught.value)


def test_without_vmas_its_tasks_are_described_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vmas", None)
    assert task_spec("vmas/football", None).num_agents == 3
    with pytest.raises(ConfigError, match=r"'vmas/football': not installed: vmas; pip install 'matrpo\[vmas\]'"):
        make_env("vmas/football", None, 1, SEED)


def assert_resumed(scenario: Scenario) -> None:
    """Check that what is saved in the middle of episodes goes on, to the bit, in a new environment, over their ends."""
    env, other = build(scenario.name, 2), build(scenario.name, 2)
    rng = np.random.default_rng(3)
    for each in (env, other):
        each.limit_episodes(4)
    env.reset()
    for _ in range(6):
        env.step(random_actions(env.spec, 2, rng))
    state = load(save(env.state_dict()))
    for _ in range(2):
        other.load_state_dict(state)
        np.testing.assert_array_equal(np.hstack(other.observe()), np.hstack(env.observe()))
    for _ in range(5):
        actions = random_actions(env.spec, 2, rng)
        np.testing.assert_array_equal(side_by_side([other], actions), side_by_side([env], actions))


@pytest.mark.parametrize("name", ["dropout", "simple_tag"])
def test_a_saved_state_goes_on_to_the_bit(name: str) -> None:
    assert_resumed(BY_NAME[name])


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_saved_state_of_every_scenario_goes_on_to_the_bit(scenario: Scenario) -> None:
    assert_resumed(scenario)


def test_the_state_of_other_environments_is_refused() -> None:
    env, more = build("wheel", 2), build("wheel", 3)
    more.reset()
    with pytest.raises(ValueError, match="not of vmas/wheel-continuous with as many agents and environments"):
        env.load_state_dict(more.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_scenario_can_be_drawn(scenario: Scenario) -> None:
    env = build(scenario.name, 1)
    env.reset()
    picture = env.render()
    assert picture.shape == (350, 350, 3)
    assert np.ptp(picture) > 0


def test_a_picture_shows_where_agents_and_landmarks_are() -> None:
    env = build("balance", 1)
    env.reset()
    line = next(one for one in env._env.world.landmarks if one.name == "line")
    pixel = 350 / (2 * env._env.scenario.viewer_zoom)
    x, y = (line.state.pos[0].numpy() * [pixel, -pixel] + 175).astype(int).tolist()
    background = env.render()[0, 0]
    assert (env.render()[y, x] != background).any()
    line.is_rendering[0] = False
    assert (env.render()[y, x] == background).all()
