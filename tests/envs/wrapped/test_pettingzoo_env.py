from typing import Any, ClassVar

import numpy as np
import pytest
from gymnasium import spaces

from matrpo.envs.wrapped.mpe2 import make_mpe2
from matrpo.envs.wrapped.pettingzoo import PettingZooEnv
from matrpo.errors import ConfigError
from matrpo.spaces import Box, Discrete, MultiDiscrete

SPREAD = "mpe2/simple_spread_v3"
SPEAKER = "mpe2/simple_speaker_listener_v4"


def random_actions(env: PettingZooEnv, steps: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    actions = np.empty((steps, env.num_envs, env.spec.joint_action_width), dtype=np.float32)
    for space, part in zip(env.spec.action_spaces, env.spec.action_slices, strict=True):
        shape = actions[..., part].shape
        actions[..., part] = rng.integers(0, space.n, shape) if isinstance(space, Discrete) else rng.random(shape)
    return actions


def original_action(env: PettingZooEnv, q: int, row: np.ndarray) -> Any:
    part = row[env.spec.action_slices[q]]
    return int(part[0]) if isinstance(env.spec.action_spaces[q], Discrete) else part


@pytest.mark.parametrize(
    ("task", "options"),
    [(SPREAD, {}), (SPREAD, {"N": 2}), (SPEAKER, {}), (SPREAD, {"continuous_actions": True, "N": 2})],
)
def test_stepping_equals_the_original(task: str, options: dict[str, Any]) -> None:
    import importlib

    env = make_mpe2(task, options, num_envs=2, seed=5)
    agents = env.spec.agents
    originals = [importlib.import_module(task.replace("/", ".")).parallel_env(**options) for _ in range(2)]
    observations = env.reset()
    expected = [original.reset(seed=env._episode_seed(b))[0] for b, original in enumerate(originals)]
    for t, joint_action in enumerate(random_actions(env, 60)):
        for b in range(2):
            for q, agent in enumerate(agents):
                np.testing.assert_array_equal(observations[q][b], expected[b][agent])
        step = env.step(joint_action)
        for b, original in enumerate(originals):
            actions = {agent: original_action(env, q, joint_action[b]) for q, agent in enumerate(agents)}
            expected[b], rewards, terminations, truncations, _ = original.step(actions)
            assert step.rewards[b].tolist() == [rewards[agent] for agent in agents]
            assert step.terminated[b].tolist() == [terminations[agent] for agent in agents]
            assert step.truncated[b].tolist() == [truncations[agent] for agent in agents]
            if not original.agents:
                assert step.final_observations is not None
                for q, agent in enumerate(agents):
                    np.testing.assert_array_equal(step.final_observations[q][b], expected[b][agent])
                expected[b] = original.reset(seed=env._episode_seed(b))[0]
        assert (step.final_observations is not None) == ((t + 1) % 25 == 0)
        observations = step.observations


def test_spaces_may_differ_between_agents() -> None:
    spec = make_mpe2(SPEAKER, {}, num_envs=1, seed=0).spec
    assert spec.agents == ("speaker_0", "listener_0")
    assert spec.observation_sizes == (3, 11)
    assert spec.action_spaces == (Discrete(3), Discrete(5))
    assert spec.episode_length == 25


def test_a_copys_episodes_do_not_depend_on_the_batch() -> None:
    alone, batch = make_mpe2(SPREAD, {}, 1, seed=3), make_mpe2(SPREAD, {}, 3, seed=3)
    starts = [env.reset()[0] for env in (alone, batch)]
    np.testing.assert_array_equal(starts[0][0], starts[1][0])
    assert len(np.unique(starts[1], axis=0)) == 3
    for joint_action in random_actions(batch, 30):
        one, many = alone.step(joint_action[:1]), batch.step(joint_action)
        np.testing.assert_array_equal(one.observations[0][0], many.observations[0][0])
        np.testing.assert_array_equal(one.rewards[0], many.rewards[0])


def test_a_picture_is_of_the_current_state_and_changes_no_trajectory() -> None:
    watched, plain = make_mpe2(SPEAKER, {}, 2, seed=0), make_mpe2(SPEAKER, {}, 2, seed=0)
    watched.reset()
    plain.reset()
    frames = []
    for t, joint_action in enumerate(random_actions(plain, 40)):
        a, b = watched.step(joint_action), plain.step(joint_action)
        for left, right in zip(a.observations, b.observations, strict=True):
            np.testing.assert_array_equal(left, right)
        if t in (10, 11, 30):
            frames.append(watched.render())
    assert frames[0].shape == (700, 700, 3)
    assert frames[0].dtype == np.uint8
    assert not np.array_equal(frames[0], frames[1])
    assert plain.state_dict() is None
    watched.close()
    watched.close()


class Relay:
    """Three agents; `short` leaves at its second step, the episode ends at the fourth. Only `masked` is masked."""

    possible_agents = ("short", "masked", "steered")
    metadata: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        self.agents: list[str] = []
        self.time = 0
        self.received: list[dict[str, Any]] = []

    @property
    def unwrapped(self) -> "Relay":
        return self

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        if agent == "masked":
            inner = spaces.Box(-1, 1, (2, 2))
            return spaces.Dict({"observation": inner, "action_mask": spaces.MultiBinary(3)})
        return spaces.Discrete(4) if agent == "steered" else spaces.Box(-10.0, 10.0, (1,), dtype=np.float64)

    def action_space(self, agent: str) -> spaces.Space[Any]:
        if agent == "steered":
            return spaces.Box(np.array([[-1.0], [0.0]]), np.array([[2.0], [0.5]]), dtype=np.float64)
        return spaces.Discrete(3, start=2 if agent == "short" else 0)

    def reset(self, seed: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        assert seed is not None
        self.agents, self.time = list(self.possible_agents), 0
        return self._observations(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        assert set(actions) == set(self.agents)
        self.received.append(actions)
        self.time += 1
        observations = self._observations()
        acting = self.agents
        terminations = {agent: agent == "short" and self.time == 2 for agent in acting}
        truncations = dict.fromkeys(acting, self.time == 4)
        self.agents = [agent for agent in acting if not terminations[agent] and not truncations[agent]]
        return observations, dict.fromkeys(acting, 1.0), terminations, truncations, {agent: {} for agent in acting}

    def _observations(self) -> dict[str, Any]:
        mask = np.array([1, 0, 0], dtype=np.int8) if self.time < 4 else np.zeros(3, dtype=np.int8)
        whole = {
            "short": np.array([1.0 + self.time]),
            "masked": {"observation": np.full((2, 2), 0.25 * self.time), "action_mask": mask},
            "steered": self.time % 4,
        }
        return {agent: whole[agent] for agent in self.agents}

    def render(self) -> None:
        return None

    def close(self) -> None:
        pass


def relay(num_envs: int = 2) -> PettingZooEnv:
    return PettingZooEnv("relay", lambda: Relay(), num_envs, seed=0)


def test_an_agent_that_leaves_early_keeps_its_flag_until_the_episode_ends() -> None:
    env = relay()
    env.reset()
    steps = [env.step(env.spec.noop(2)) for _ in range(5)]
    assert [step.terminated[0].tolist() for step in steps] == [
        [False, False, False],
        [True, False, False],
        [True, False, False],
        [True, False, False],
        [False, False, False],
    ]
    assert [step.truncated[1].any() for step in steps] == [False, False, False, True, False]
    assert [step.rewards[0, 0] for step in steps] == [1, 1, 0, 0, 1]
    assert [step.observations[0][0, 0] for step in steps] == [2, 0, 0, 1, 2]
    assert [step.final_observations is not None for step in steps] == [False, False, False, True, False]
    assert steps[3].final_observations is not None
    assert steps[3].final_observations[0].tolist() == [[0.0], [0.0]]
    assert steps[3].final_observations[1].tolist() == [[1.0] * 4] * 2


def test_observations_are_flattened() -> None:
    env = relay()
    assert env.spec.observation_sizes == (1, 4, 4)
    env.reset()
    step = env.step(env.spec.noop(2))
    assert step.observations[1].tolist() == [[0.25] * 4] * 2
    assert step.observations[2].tolist() == [[0, 1, 0, 0]] * 2
    assert all(array.dtype == np.float32 for array in step.observations)


def test_masks_are_known_from_the_reset_on_and_open_for_agents_that_ended() -> None:
    env = relay()
    env.reset()
    for _ in range(5):
        masks = env.action_masks()
        assert masks[0] is None
        assert masks[1] is not None
        assert masks[1].tolist() == [[True, False, False]] * 2
        assert masks[2] is None
        env.step(env.spec.noop(2))


def test_masks_may_come_with_the_infos() -> None:
    class Informed(Relay):
        def reset(self, seed: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
            observations, infos = super().reset(seed)
            return observations, infos | {"short": {"action_mask": np.array([0, 1, 1], dtype=np.int8)}}

        def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
            *outcome, infos = super().step(actions)
            return *outcome, infos | {"short": {"action_mask": np.array([1, 0, 1], dtype=np.int8)}}

    env = PettingZooEnv("informed", lambda: Informed(), 2, seed=0)
    env.reset()
    allowed = []
    for _ in range(5):
        mask = env.action_masks()[0]
        assert mask is not None
        allowed.append(mask[1].tolist())
        env.step(env.spec.noop(2))
    first, later, gone = [False, True, True], [True, False, True], [True, True, True]
    assert allowed == [first, later, gone, gone, first]


def test_actions_are_clipped_shaped_and_shifted() -> None:
    env = relay(num_envs=1)
    assert env.spec.action_spaces == (Discrete(3), Discrete(3), Box(2, (-1.0, 0.0), (2.0, 0.5)))
    env.reset()
    env.step(np.array([[1, 2, -7.0, 9.0]], dtype=np.float32))
    (received,) = env._copies[0].received
    assert received["short"] == 3
    assert received["masked"] == 2
    assert received["steered"].tolist() == [[-1.0], [0.5]]
    with pytest.raises(ValueError, match="outside"):
        env.step(np.array([[3, 0, 0.0, 0.0]], dtype=np.float32))


def test_choices_of_several_factors_reach_the_task_in_its_own_form_and_so_do_masks() -> None:
    class Factors(Relay):
        mask = (np.array([1, 0], np.int8), np.array([0, 1, 1], np.int8))

        def action_space(self, agent: str) -> spaces.Space[Any]:
            if agent == "short":
                return spaces.MultiDiscrete([2, 3], start=[1, -1])
            return (
                spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(2))) if agent == "steered" else spaces.Discrete(3)
            )

        def reset(self, seed: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
            observations, infos = super().reset(seed)
            return observations, infos | {"short": {"action_mask": self.mask}}

    env = PettingZooEnv("factors", lambda: Factors(), 1, seed=0)
    assert env.spec.action_spaces == (MultiDiscrete((2, 3)), Discrete(3), MultiDiscrete((3, 2, 2)))
    env.reset()
    assert [None if mask is None else mask.tolist() for mask in env.action_masks()][::2] == [
        [[True, False, False, True, True]],
        None,
    ]
    env.step(np.array([[1, 0, 2, 2, 1, 0]], dtype=np.float32))
    (received,) = env._copies[0].received
    assert all(Factors().action_space(agent).contains(action) for agent, action in received.items())
    assert received["short"].tolist() == [2, -1]
    assert received["steered"][0] == 2
    assert received["steered"][1].tolist() == [1, 0]


def test_returned_arrays_are_never_written_again() -> None:
    env = relay()
    kept = [(array, array.copy()) for array in env.reset()]
    for _ in range(9):
        step = env.step(env.spec.noop(2))
        arrays = [*step.observations, *(step.final_observations or []), step.rewards, step.truncated, step.terminated]
        arrays += [mask for mask in env.action_masks() if mask is not None]
        kept += [(array, array.copy()) for array in arrays]
    for array, copy in kept:
        np.testing.assert_array_equal(array, copy)


def test_what_cannot_be_used_is_named() -> None:
    class Odd(Relay):
        def action_space(self, agent: str) -> spaces.Space[Any]:
            return spaces.Text(3) if agent == "masked" else super().action_space(agent)

    with pytest.raises(ConfigError, match=r"'odd'.*'masked'.*Text") as caught:
        PettingZooEnv("odd", lambda: Odd(), 1, seed=0)
    assert "\n" not in str(caught.value)

    class Endless(Relay):
        def observation_space(self, agent: str) -> spaces.Space[Any]:
            return spaces.Sequence(spaces.Discrete(2)) if agent == "short" else super().observation_space(agent)

    with pytest.raises(ConfigError, match="'short'"):
        PettingZooEnv("endless", lambda: Endless(), 1, seed=0)

    with pytest.raises(ConfigError, match="rgb_array"):
        relay().render()


def test_stepping_before_a_reset_is_refused() -> None:
    env = relay()
    with pytest.raises(RuntimeError, match="reset"):
        env.step(env.spec.noop(2))
