import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from matrpo.envs.particle.navigation import NavigationEnv
from matrpo.envs.reward_scale import RewardScale
from matrpo.envs.shared import AgentStep, SharedEnvironment
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.spaces import Box, Discrete, TaskSpec


class Countdown(VectorEnv):
    """Two agents with different spaces; environment b's episodes last b + 1 steps and pay (1, 10 b) each."""

    statistics = ("even", "index")

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.spec = TaskSpec("countdown", ("first", "second"), (1, 2), (Discrete(3), Box(2, -1.0, 1.0)))
        self.time = np.zeros(num_envs)

    def reset(self) -> list[np.ndarray]:
        self.time[...] = 0
        return self.observe()

    def step(self, joint_action: np.ndarray) -> VectorStep:
        self._check_action(joint_action)
        self.time += 1
        ended = self.time == np.arange(self.num_envs) + 1
        rewards = np.stack([np.ones(self.num_envs), 10.0 * np.arange(self.num_envs)], axis=1)
        final = self.observe() if ended.any() else None
        self.time[ended] = 0
        flags = np.repeat(ended[:, None], 2, axis=1)
        index = np.arange(self.num_envs)
        statistics = np.stack([index % 2 == 0, index], axis=1).astype(np.float64) if ended.any() else None
        return VectorStep(self.observe(), rewards, flags, np.zeros_like(flags), final, statistics=statistics)

    def observe(self) -> list[np.ndarray]:
        time = self.time.astype(np.float32)[:, None]
        return [time, np.concatenate([time, time], axis=1)]

    def action_masks(self) -> list[np.ndarray | None]:
        return [np.ones((self.num_envs, 3), dtype=bool), None]

    def render(self) -> np.ndarray:
        return np.zeros((1, 1, 3), dtype=np.uint8)


def assert_same(a: list[AgentStep], b: list[AgentStep]) -> None:
    for left, right in zip(a, b, strict=True):
        for name, value in vars(left).items():
            np.testing.assert_array_equal(value, getattr(right, name))


def random_actions(env: NavigationEnv, steps: int) -> np.ndarray:
    shape = (steps, env.num_envs, env.spec.num_agents)
    return np.random.default_rng(0).integers(0, 5, shape).astype(np.float32)


def test_each_agent_gets_its_own_part_and_the_joint_action() -> None:
    shared = SharedEnvironment(Countdown(3), gamma=0.9, reward_scaling=False)
    first, second = shared.reset()
    assert first.observation.shape == (3, 1)
    assert second.observation.shape == (3, 2)
    assert not first.reward.any()
    assert not first.joint_action.any()
    assert first.joint_action.shape == (3, 3)
    assert first.action_mask is not None
    assert second.action_mask is None

    joint_action = np.array([[0, 1, 2], [1, 3, 4], [2, 5, 6]], dtype=np.float32)
    first, second = shared.step(joint_action)
    joint_action[...] = -1
    assert first.joint_action.tolist() == [[0, 1, 2], [1, 3, 4], [2, 5, 6]]
    assert first.reward.tolist() == [1, 1, 1]
    assert second.reward.tolist() == [0, 10, 20]
    assert first.reward.dtype == np.float32
    assert first.terminated.tolist() == [True, False, False]
    assert first.observation[:, 0].tolist() == [0, 1, 1]
    assert first.final_observation is not None
    assert first.final_observation[:, 0].tolist() == [1, 1, 1]


def test_the_task_is_stepped_in_its_own_units() -> None:
    env, received = Countdown(2), []
    env.spec = TaskSpec("countdown", ("first", "second"), (1, 2), (Discrete(3), Box(2, (0.0, 100.0), (4.0, 200.0))))
    step = env.step
    env.step = lambda joint_action: received.append(joint_action) or step(joint_action)  # type: ignore[method-assign]
    shared = SharedEnvironment(env, gamma=0.9, reward_scaling=False)
    shared.reset()
    steps = shared.step(np.array([[2, -0.5, 0.5], [1, 0.0, -2.0]], dtype=np.float32))
    assert received[0].tolist() == [[2, 1.0, 175.0], [1, 2.0, 50.0]]
    assert steps[0].joint_action.tolist() == [[2, -0.5, 0.5], [1, 0.0, -2.0]]


def test_metrics_count_the_episodes_since_the_last_call() -> None:
    shared = SharedEnvironment(Countdown(3), gamma=0.9, reward_scaling=False)
    shared.reset()
    for _ in range(3):
        shared.step(shared.spec.noop(3))
    # Environment 0 ended three episodes of 1 step, 1 one of 2 steps (return 2 x 11), 2 one of 3 (3 x 21).
    metrics = shared.take_metrics()
    team = [1, 1, 1, 22, 63]
    assert metrics["episodes"] == 5
    assert metrics["team_return_mean"] == pytest.approx(np.mean(team))
    assert metrics["team_return_std"] == pytest.approx(np.std(team))
    assert metrics["team_return_min"] == 1
    assert metrics["team_return_max"] == 63
    assert metrics["agent_return_mean"] == {"first": pytest.approx(8 / 5), "second": pytest.approx(80 / 5)}
    assert metrics["episode_length_mean"] == pytest.approx(8 / 5)
    assert metrics["reward_scale"] == 1.0
    assert metrics["even"] == pytest.approx(4 / 5)
    assert metrics["index"] == pytest.approx(3 / 5)
    again = shared.take_metrics()
    assert again["episodes"] == 0
    assert again["team_return_mean"] is None
    assert again["even"] is None
    assert json.loads(json.dumps([metrics, again])) == [metrics, again]


def test_one_agent_may_be_paid_for_all_and_the_team_return_stays() -> None:
    shared = SharedEnvironment(Countdown(3), gamma=0.9, reward_scaling=True, reward="one-agent")
    plain = SharedEnvironment(Countdown(3), gamma=0.9, reward_scaling=True)
    shared.reset()
    plain.reset()
    for _ in range(3):
        first, second = shared.step(shared.spec.noop(3))
        assert first.reward.tolist() == [1, 11, 21]
        assert not second.reward.any()
        assert first.reward_scale == plain.step(plain.spec.noop(3))[0].reward_scale
    metrics, own = shared.take_metrics(), plain.take_metrics()
    assert metrics.pop("agent_return_mean") == {"first": own["team_return_mean"], "second": 0.0}
    own.pop("agent_return_mean")
    assert metrics == own


def test_the_state_of_a_task_without_one_is_its_observations() -> None:
    env = Countdown(3)
    observations = env.reset()
    assert env.state().shape == (3, 3)
    assert env.agent_states(env.state(), observations)[1].shape == (3, 3)


def test_a_reset_drops_unfinished_returns() -> None:
    shared = SharedEnvironment(Countdown(2), gamma=0.9, reward_scaling=True)
    shared.reset()
    shared.step(shared.spec.noop(2))
    shared.take_metrics()
    shared.reset()
    for _ in range(2):
        shared.step(shared.spec.noop(2))
    assert shared.take_metrics()["team_return_max"] == 22


def test_all_agents_get_one_scale_that_knows_no_later_step() -> None:
    plain = SharedEnvironment(NavigationEnv(3, 4, seed=0), gamma=0.97, reward_scaling=False)
    scaled = SharedEnvironment(NavigationEnv(3, 4, seed=0), gamma=0.97, reward_scaling=True)
    plain.reset()
    scaled.reset()
    scale = RewardScale(0.97, 4)
    for t, joint_action in enumerate(random_actions(scaled.env, 120)):
        raw, with_scale = plain.step(joint_action), scaled.step(joint_action)
        rewards = np.stack([step.reward for step in raw], axis=1).astype(np.float64)
        scale.update(rewards.sum(axis=1), np.full(4, t == 99))
        assert scaled.reward_scale == pytest.approx(scale.value, rel=1e-5)
        for a, b in zip(raw, with_scale, strict=True):
            np.testing.assert_array_equal(b.reward, a.reward)
            assert a.reward_scale.tolist() == [1.0]
            np.testing.assert_array_equal(b.reward_scale, np.float32([scaled.reward_scale]))
    assert plain.take_metrics()["team_return_mean"] == scaled.take_metrics()["team_return_mean"]


@pytest.mark.parametrize("reward_scaling", [True, False])
@pytest.mark.parametrize("before", [0, 30, 130])
def test_a_restored_environment_continues_bit_for_bit(before: int, reward_scaling: bool) -> None:
    shared = SharedEnvironment(NavigationEnv(3, 4, seed=0), 0.97, reward_scaling)
    shared.reset()
    actions = random_actions(shared.env, before + 110)
    for joint_action in actions[:before]:
        shared.step(joint_action)
    state = shared.state_dict()
    restored = SharedEnvironment(NavigationEnv(3, 4, seed=0), 0.97, reward_scaling)
    begun = restored.resume(load(save(state)))
    for step, observation in zip(begun, shared.env.observe(), strict=True):
        np.testing.assert_array_equal(step.observation, observation)
        assert not step.ended.any()
    for joint_action in actions[before:]:
        assert_same(shared.step(joint_action), restored.step(joint_action))
    assert shared.take_metrics() == restored.take_metrics()


def test_a_foreign_state_is_refused() -> None:
    shared = SharedEnvironment(NavigationEnv(3, 4, seed=0), 0.97, reward_scaling=True)
    shared.reset()
    state = shared.state_dict()
    with pytest.raises(ValueError, match="reward_scaling"):
        SharedEnvironment(NavigationEnv(3, 4, seed=0), 0.97, reward_scaling=False).resume(state)
    with pytest.raises(ValueError, match="navigation"):
        SharedEnvironment(NavigationEnv(2, 4, seed=0), 0.97, reward_scaling=True).resume(state)


def test_a_task_without_a_state_begins_anew_with_the_reward_scale_that_it_had(caplog: pytest.LogCaptureFixture) -> None:
    whole, again = (SharedEnvironment(Countdown(2), gamma=0.9, reward_scaling=True) for _ in range(2))
    whole.reset()
    for _ in range(3):
        whole.step(whole.spec.noop(2))
    assert whole.reward_scale != 1.0
    begun = again.resume(load(save(whole.state_dict())))
    assert "the state of countdown cannot be saved: new episodes begin" in caplog.text
    assert_same(begun, whole.reset())
    assert_same(again.step(again.spec.noop(2)), whole.step(whole.spec.noop(2)))
    np.testing.assert_array_equal(again.moments, whole.moments)
    with pytest.raises(NotImplementedError, match="countdown"):
        whole.env.load_state_dict({})


def test_a_task_without_a_state_and_a_scale_has_nothing_to_save() -> None:
    shared = SharedEnvironment(Countdown(2), gamma=0.9, reward_scaling=False)
    shared.reset()
    assert shared.state_dict() == {}
    assert [step.ended.tolist() for step in shared.resume({})] == [[True] * 2] * 2


def test_episodes_do_not_go_on_after_a_reset() -> None:
    shared = SharedEnvironment(Countdown(3), gamma=0.9, reward_scaling=False)
    assert [step.ended.tolist() for step in shared.reset()] == [[True] * 3] * 2
    assert shared.step(shared.spec.noop(3))[0].ended.tolist() == [True, False, False]
