"""A guard around environments of others: one line that names task, environment, step, agent, quantity and value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from matrpo.envs.conformance.guarded import GuardedEnv, check_env
from matrpo.envs.shared import SharedEnvironment
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.errors import ConfigError, TaskError
from matrpo.spaces import Box, Discrete, TaskSpec


class Clock(VectorEnv):
    """Two agents, B = 2, episodes of 3 steps; `spoil` may change what a step, or the state or masks after it, says."""

    spec = TaskSpec("clock", ("first", "second"), (1, 2), (Discrete(3), Box(1, -1.0, 1.0)))
    num_envs = 2

    def __init__(self, spoil: Any = None) -> None:
        self.spoil = spoil
        self.total = 0
        self.the_state = np.ones((2, 4), np.float32)
        self.masks: list[Any] = [np.ones((2, 3), bool), None]

    def reset(self) -> list[np.ndarray]:
        return self.observe()

    def observe(self) -> list[np.ndarray]:
        return [np.ones((2, 1), np.float32), np.ones((2, 2), np.float32)]

    def state(self) -> np.ndarray:
        return self.the_state

    def action_masks(self) -> list[Any]:
        return self.masks

    def step(self, joint_action: np.ndarray) -> VectorStep:  # noqa: ARG002
        self.total += 1
        over = np.full((2, 2), self.total % 3 == 0)
        final = self.observe() if over.any() else None
        step = VectorStep(self.observe(), np.ones((2, 2)), over, np.zeros_like(over), final)
        if over.any():
            step.final_state = self.the_state.copy()
        if self.spoil:
            self.spoil(self, step)
        return step

    def load_state_dict(self, state: Any) -> None:
        pass


def look_at_a_step(env: VectorEnv) -> None:
    env.step(env.spec.noop(2))
    env.state()
    env.action_masks()


def failure(spoil: Any, at: int, first: int = 0) -> str:
    """What is said when the step number `at`, from 1, is spoiled."""
    env = Clock(lambda env, step: spoil(env, step) if env.total == at else None)
    guarded = GuardedEnv(env, "their/clock")
    env.number_from = lambda _first: None  # type: ignore[method-assign]
    guarded.number_from(first)
    guarded.reset()
    for _ in range(at - 1):
        look_at_a_step(guarded)
    with pytest.raises(TaskError) as caught:
        look_at_a_step(guarded)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def set_reward(value: float) -> Any:
    return lambda _env, step: step.rewards.__setitem__((1, 0), value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_not_finite_is_named(value: float) -> None:
    expected = "task 'their/clock', environment 5, step 2 of its episode: the reward of agent 'first'"
    assert failure(set_reward(value), 5, first=4) == f"{expected} is {value:g}; expected a finite number"


def test_a_reward_whose_sums_float32_cannot_hold_is_named() -> None:
    text = failure(set_reward(-1e31), 3)
    assert text.endswith("step 3 of its episode: the reward of agent 'first' is -1e+31; expected at most 1e+30 in size")


def spoil_observation(_env: Clock, step: VectorStep) -> None:
    step.observations[1][0, 1] = np.nan


def spoil_final(_env: Clock, step: VectorStep) -> None:
    assert step.final_observations is not None
    step.final_observations[0][1, 0] = np.inf


def spoil_state(env: Clock, _step: VectorStep) -> None:
    env.the_state[0, 3] = np.nan


def spoil_final_state(_env: Clock, step: VectorStep) -> None:
    assert step.final_state is not None
    step.final_state[0, 3] = np.nan


@pytest.mark.parametrize(
    ("spoil", "at", "words"),
    [
        (spoil_observation, 2, "environment 0, step 2 of its episode: the observation of agent 'second' is nan"),
        (spoil_observation, 3, "environment 0, step 0 of its episode: the observation of agent 'second' is nan"),
        (spoil_final, 3, "environment 1, step 3 of its episode: the observation of agent 'first' is inf"),
        (spoil_state, 1, "environment 0, step 1 of its episode: the state is nan"),
        (spoil_final_state, 3, "environment 0, step 3 of its episode: the final state is nan"),
    ],
)
def test_so_is_any_other_number(spoil: Any, at: int, words: str) -> None:
    assert words in failure(spoil, at)


def change(**changes: Any) -> Any:
    def spoil(env: Clock, step: VectorStep) -> None:
        for name, value in changes.items():
            setattr(env if name == "masks" else step, name, value)

    return spoil


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rewards": np.ones((2, 1))}, "step().rewards is shape (2, 1) and type float64; expected an array of shape"),
        ({"rewards": np.full((2, 2), None)}, "type object"),
        ({"terminated": np.zeros((2, 2))}, "step().terminated is shape (2, 2) and type float64; expected"),
        ({"alive": np.zeros(2, bool)}, "step().alive is shape (2,)"),
        ({"observations": [np.ones((2, 1), np.float32)] * 2}, "step().observations of second is shape (2, 1)"),
        ({"observations": None}, "step().observations is None; expected a list of 2 arrays"),
        ({"masks": [np.ones((2, 4), bool), None]}, "action_masks() of first is shape (2, 4) and type bool; expected"),
        ({"masks": [np.ones((2, 3)), None]}, "action_masks() of first is shape (2, 3) and type float64"),
        (
            {"masks": [None, np.ones((2, 1), bool)]},
            "action_masks() of second is an object of type ndarray; expected None",
        ),
        ({"masks": None}, "action_masks() is None"),
    ],
)
def test_shapes_and_types_are_checked_at_every_step(changes: dict[str, Any], words: str) -> None:
    text = failure(change(**changes), 2)
    assert text.startswith("task 'their/clock': ")
    assert words in text


def test_what_it_raises_is_one_line_with_its_place() -> None:
    def spoil(_env: Clock, _step: VectorStep) -> None:
        raise KeyError("lost\nfor good")

    assert "task 'their/clock': step() raised KeyError: 'lost\\nfor good' (test_guarded.py, line" in failure(spoil, 2)


def test_a_user_s_mistake_and_a_wrong_action_stay_what_they_are() -> None:
    def spoil(_env: Clock, _step: VectorStep) -> None:
        raise ConfigError("no such thing")

    guarded = GuardedEnv(Clock(spoil), "their/clock")
    guarded.reset()
    with pytest.raises(ConfigError, match="no such thing"):
        guarded.step(guarded.spec.noop(2))
    with pytest.raises(ValueError, match="joint action"):
        guarded.step(np.zeros((1, 2), np.float32))


def test_default_actions_are_the_task_s_own_and_checked() -> None:
    kept = np.array([[2, 1], [0, 0]])

    class Waiting(Clock):
        def default_actions(self) -> np.ndarray:
            return kept

    guarded = GuardedEnv(Waiting(), "their/clock")
    actions = guarded.default_actions()
    actions[:] += 0.5
    assert actions.tolist() == [[2.5, 1.5], [0.5, 0.5]], "the others' actions may be fractions"
    assert guarded.default_actions().tolist() == kept.tolist() == [[2, 1], [0, 0]]
    kept[1, 0] = 7
    with pytest.raises(TaskError, match=r"default_actions\(\) raised ValueError: .* outside its action space"):
        guarded.default_actions()


def test_after_a_resume_the_step_is_not_known_and_not_said() -> None:
    guarded = GuardedEnv(Clock(set_reward(np.nan)), "their/clock")
    guarded.load_state_dict({})
    with pytest.raises(TaskError, match=r"^task 'their/clock', environment 1: the reward of agent 'first' is nan"):
        guarded.step(guarded.spec.noop(2))


def test_before_a_run_it_is_the_user_s_mistake() -> None:
    with pytest.raises(ConfigError, match="environment 1, step 1 of its episode: the reward"):
        check_env(Clock(set_reward(np.nan)), "their/clock")
    check_env(Clock(), "their/clock")


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int8, np.float16])
def test_rewards_of_any_type_add_up_as_float64(dtype: Any) -> None:
    rewards = np.array([[100, 100], [0, 1]]).astype(dtype)
    env = GuardedEnv(Clock(change(rewards=rewards)), "their/clock")
    shared = SharedEnvironment(env, 0.9, reward_scaling=False, reward="one-agent")
    shared.reset()
    first, second = shared.step(env.spec.noop(2))
    assert first.reward.tolist() == rewards.astype(float).sum(axis=1).tolist()
    assert second.reward.tolist() == [0.0, 0.0]


def test_actions_that_it_writes_to_are_a_copy() -> None:
    class Clipping(Clock):
        def step(self, joint_action: np.ndarray) -> VectorStep:
            np.clip(joint_action, 0.0, 0.5, out=joint_action)
            return super().step(joint_action)

    shared = SharedEnvironment(GuardedEnv(Clipping(), "their/clock"), 0.9, reward_scaling=False)
    shared.reset()
    done = np.array([[2.0, -3.0], [1.0, 0.25]], np.float32)
    for step in shared.step(done):
        assert step.joint_action.tolist() == done.tolist()


def test_who_is_there_is_checked() -> None:
    env = Clock()
    env.present = lambda: np.ones((2, 1), bool)  # type: ignore[method-assign]
    with pytest.raises(TaskError, match=r"present\(\) is shape \(2, 1\) and type bool; expected an array of shape"):
        GuardedEnv(env, "their/clock").present()


def test_arrays_that_a_later_step_writes_to_are_refused_before_a_run() -> None:
    class Reusing(Clock):
        buffers = (np.ones((2, 1), np.float32), np.ones((2, 2), np.float32))

        def observe(self) -> list[np.ndarray]:
            self.buffers[1][...] = self.total
            return list(self.buffers)

    with pytest.raises(ConfigError, match=r"^task 'their/clock': step\(\) wrote to arrays that it had handed over;"):
        check_env(Reusing(), "their/clock")


@pytest.mark.parametrize("picture", [None, np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.array(None)])
def test_what_is_no_picture_is_one_line(picture: Any) -> None:
    env = Clock()
    env.render = lambda: picture  # type: ignore[method-assign]
    with pytest.raises(TaskError, match=r"what render\(\) returns is .*; expected an array of shape \(H, W, 3\) and"):
        GuardedEnv(env, "their/clock").render()
