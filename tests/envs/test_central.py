"""What a centralised trainer sees of an environment: who is alive, how episodes end, and the state then."""

import numpy as np
import pytest

from matrpo.envs.central import CentralEnvironment
from matrpo.envs.registry import make_env
from matrpo.envs.shared import SharedEnvironment
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.spaces import Discrete, TaskSpec


class Scripted(VectorEnv):
    """Two agents and two environments whose episodes end as a table says.

    Environment 0 lasts 3 steps, the last agent is out after the first, and the task ends; environment 1 lasts 2 steps
    and is truncated. The state is the environment's number, its step, and 7; observations are a part of it.
    """

    spec = TaskSpec("scripted", ("first", "second"), (1, 1), (Discrete(2), Discrete(2)))
    num_envs = 2
    lengths = np.array([3, 2])

    def __init__(self) -> None:
        self._time = np.zeros(2, dtype=np.int64)

    def reset(self):
        self._time[...] = 0
        return self.observe()

    def observe(self):
        return [self._time[:, None].astype(np.float32) + 10 * q for q in range(2)]

    def state(self):
        return np.stack([np.arange(2), self._time, [7, 7]], axis=1).astype(np.float32)

    def agent_states(self, state, observations):
        return [np.concatenate([state, seen], axis=1) for seen in observations]

    def step(self, joint_action):
        self._check_action(joint_action)
        self._time += 1
        over = self._time == self.lengths
        terminated, truncated = np.zeros((2, 2), dtype=bool), np.zeros((2, 2), dtype=bool)
        terminated[0] = [over[0], True]
        truncated[1] = over[1]
        rewards = np.array([[1.0, 2.0], [10.0, 20.0]])
        final, final_state = (self.observe(), self.state()) if over.any() else (None, None)
        self._time[over] = 0
        return VectorStep(self.observe(), rewards, terminated, truncated, final, final_state)

    def state_dict(self):
        return {"time": self._time.copy()}

    def load_state_dict(self, state):
        self._time = state["time"].copy()


ACTION = np.zeros((2, 2), dtype=np.float32)


def central(state_type="ep", reward="own"):
    return CentralEnvironment(SharedEnvironment(Scripted(), 0.9, False, reward), state_type)


def test_an_agent_that_is_out_is_not_alive_until_its_episode_ends():
    environment = central()
    assert environment.reset().alive.all()
    steps = [environment.step(ACTION) for _ in range(3)]
    np.testing.assert_array_equal([step.alive[0] for step in steps], [[True, False], [True, False], [True, True]])
    assert all(step.alive[1].all() for step in steps)


def test_an_agent_that_is_out_can_only_do_nothing_where_that_is_asked_for():
    shared = SharedEnvironment(Scripted(), 0.9, False, absent_idle=True)
    assert [step.action_mask for step in shared.reset()] == [None, None]
    for present in ([True, False], [True, False], [True, True]):
        first, second = shared.step(ACTION)
        np.testing.assert_array_equal(shared.present, [present, [True, True]])
        assert first.action_mask is None
        if present[1]:
            assert second.action_mask is None
        else:
            np.testing.assert_array_equal(second.action_mask, [[True, False], [True, True]])
    assert not shared.waiting.any(), "nobody who is there waits"


def test_who_is_out_is_saved_and_states_of_before_have_all_agents_in():
    whole, again, old = (SharedEnvironment(Scripted(), 0.9, False, absent_idle=True) for _ in range(3))
    whole.reset()
    whole.step(ACTION)
    state = whole.state_dict()
    for mask, expected in zip(
        [s.action_mask for s in again.resume(state)], [None, [[True, False], [True] * 2]], strict=True
    ):
        np.testing.assert_array_equal(mask, expected)
    del state["alive"]
    assert [step.action_mask for step in old.resume(state)] == [None, None]


def test_the_team_is_terminated_or_truncated_as_a_whole():
    environment = central()
    assert not environment.reset().states[0].terminated.any()
    first, second, third = (environment.step(ACTION).states[0] for _ in range(3))
    assert not (first.terminated | first.truncated).any(), "one agent's end is not the team's"
    np.testing.assert_array_equal(second.truncated, [False, True])
    np.testing.assert_array_equal(second.terminated, [False, False])
    np.testing.assert_array_equal(third.terminated, [True, False])
    np.testing.assert_array_equal(third.truncated, [False, False])


def test_the_final_state_of_an_episode_is_the_one_before_the_reset():
    environment = central()
    environment.reset()
    assert environment.step(ACTION).states[0].final_observation is None
    second = environment.step(ACTION).states[0]
    np.testing.assert_array_equal(second.observation, [[0, 2, 7], [1, 0, 7]])
    np.testing.assert_array_equal(second.final_observation[1], [1, 2, 7])


def test_each_agent_may_have_a_state_of_its_own():
    environment = central("fp")
    assert [view.observation.shape for view in environment.reset().states] == [(2, 4)] * 2
    environment.step(ACTION)
    states = environment.step(ACTION).states
    np.testing.assert_array_equal(states[0].final_observation[1], [1, 2, 7, 2])
    np.testing.assert_array_equal(states[1].final_observation[1], [1, 2, 7, 12])
    np.testing.assert_array_equal(states[1].observation, [[0, 2, 7, 12], [1, 0, 7, 10]])


@pytest.mark.parametrize(("reward", "own"), [("own", [1.0, 2.0]), ("shared", [3.0, 3.0]), ("one-agent", [3.0, 0.0])])
def test_the_team_earns_the_sum_however_agents_are_paid(reward, own):
    environment = central(reward=reward)
    environment.reset()
    step = environment.step(ACTION)
    np.testing.assert_array_equal(step.states[0].reward, [3.0, 30.0])
    assert [agent.reward[0] for agent in step.agents] == own


def test_the_rewards_of_all_are_divided_by_the_same_scale():
    environment = CentralEnvironment(SharedEnvironment(Scripted(), 0.9, True), "ep")
    environment.reset()
    step = environment.step(ACTION)
    assert step.states[0].reward_scale == step.agents[0].reward_scale != 1.0


@pytest.mark.parametrize("state_type", ["ep", "fp"])
def test_a_saved_environment_goes_on_where_it_was(state_type):
    whole, again = central(state_type), central(state_type)
    whole.reset()
    whole.step(ACTION)
    seen = again.resume(whole.shared.state_dict())
    np.testing.assert_array_equal(seen.alive, [[True, False], [True, True]])
    assert not seen.states[0].truncated.any(), "the episodes go on"
    for _ in range(4):
        left, right = whole.step(ACTION), again.step(ACTION)
        np.testing.assert_array_equal(left.alive, right.alive)
        for a, b in zip(left.states, right.states, strict=True):
            np.testing.assert_array_equal(a.observation, b.observation)
            np.testing.assert_array_equal(a.terminated, b.terminated)


def test_a_task_without_a_state_of_its_own_has_all_observations_side_by_side():
    env = make_env("mpe2/simple_spread_v3", 2, 3, 0)
    environment = CentralEnvironment(SharedEnvironment(env, 0.9, False), "ep")
    environment.reset()
    action = np.zeros((3, 2), dtype=np.float32)
    step = environment.step(action)
    for _ in range(24):
        assert step.states[0].final_observation is None
        step = environment.step(action)
    assert step.states[0].truncated.all()
    finals = [agent.final_observation for agent in step.agents]
    np.testing.assert_array_equal(step.states[0].final_observation, np.concatenate(finals, axis=1))
    seen = [agent.observation for agent in step.agents]
    np.testing.assert_array_equal(step.states[0].observation, np.concatenate(seen, axis=1))
