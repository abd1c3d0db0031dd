import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from marks import slow

from matrpo.envs.counter_rng import episode_seed
from matrpo.envs.mujoco.mamujoco import MamujocoEnv, make_mamujoco
from matrpo.envs.mujoco.robots import PARTITIONS, mamujoco_spec
from matrpo.envs.shared import SharedEnvironment
from matrpo.envs.vector_env import VectorStep
from matrpo.errors import ConfigError
from matrpo.spaces import Box

TASKS = [f"mamujoco/{partition}" for partition in PARTITIONS]
HUMANOID_JOINTS = (
    "abdomen_x abdomen_y abdomen_z right_hip_x right_hip_y right_hip_z right_knee left_hip_x left_hip_y left_hip_z "
    "left_knee right_shoulder1 right_shoulder2 right_elbow left_shoulder1 left_shoulder2 left_elbow"
)
JOINTS = {
    "mamujoco/HalfCheetah-3x2": "bfoot bshin|bthigh ffoot|fshin fthigh",
    "mamujoco/Ant-8x1": "hip1|ankle1|hip2|ankle2|hip3|ankle3|hip4|ankle4",
    "mamujoco/Walker2d-3x2": "foot_joint leg_joint|thigh_joint foot_left_joint|leg_left_joint thigh_left_joint",
    "mamujoco/Walker2d-6x1": "foot_joint|leg_joint|thigh_joint|foot_left_joint|leg_left_joint|thigh_left_joint",
    "mamujoco/Humanoid-17x1": HUMANOID_JOINTS.replace(" ", "|"),
    "mamujoco/HumanoidStandup-17x1": HUMANOID_JOINTS.replace(" ", "|"),
}
"""Who moves which joint, where the library has no such partition."""


def original(task: str) -> Any:
    """gymnasium-robotics' environment, given the partition as its documentation says where it does not know it."""
    from gymnasium_robotics import mamujoco_v1

    robot, partition = task.removeprefix("mamujoco/").split("-")
    scenario = "ManySegmentSwimmer" if robot == "Swimmer" else robot
    factorization = None
    if task in JOINTS:
        (joints,), edges, common = mamujoco_v1.get_parts_and_edges(scenario, None)
        named = {joint.label: joint for joint in joints}
        parts = [tuple(named[label] for label in part.split()) for part in JOINTS[task].split("|")]
        factorization = {"partition": parts, "edges": edges, "globals": common}
    return mamujoco_v1.parallel_env(scenario, partition, agent_factorization=factorization)


def runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def random_actions(env: MamujocoEnv, steps: int) -> np.ndarray:
    """Some of them outside the bounds."""
    shape = (steps, env.num_envs, env.spec.joint_action_width)
    return np.random.default_rng(0).uniform(-1.2, 1.2, shape).astype(np.float32)


def assert_same_step(a: VectorStep, b: VectorStep) -> None:
    for name, value in vars(a).items():
        other = getattr(b, name)
        assert (value is None) == (other is None), name
        for left, right in zip(value, other, strict=True) if value is not None else ():
            np.testing.assert_array_equal(left, right, err_msg=name)


@pytest.mark.parametrize("task", TASKS)
def test_every_step_equals_the_original(task: str) -> None:
    num_envs = 3 if task == "mamujoco/Hopper-3x1" else 1
    env = make_mamujoco(task, num_envs, seed=3)
    copies = [original(task) for _ in range(num_envs)]
    observations, state = env.reset(), env.state()
    expected = [copy.reset(seed=episode_seed(3, b, 0))[0] for b, copy in enumerate(copies)]
    episodes = [0] * num_envs
    for joint_action in random_actions(env, 100):
        for b, copy in enumerate(copies):
            np.testing.assert_array_equal(state[b], copy.state().astype(np.float32))
            for q, agent in enumerate(env.spec.agents):
                np.testing.assert_array_equal(observations[q][b], expected[b][agent].astype(np.float32))
        step = env.step(joint_action)
        for b, copy in enumerate(copies):
            actions = {}
            for agent, part in zip(env.spec.agents, env.spec.action_slices, strict=True):
                space = copy.action_space(agent)
                actions[agent] = np.clip(joint_action[b, part], space.low, space.high)
            expected[b], rewards, terminations, truncations, _ = copy.step(actions)
            for q, agent in enumerate(env.spec.agents):
                assert step.rewards[b, q] == rewards[agent] / env.spec.num_agents
                assert step.terminated[b, q] == terminations[agent]
                assert step.truncated[b, q] == truncations[agent]
            if step.ended[b]:
                assert step.final_observations is not None
                assert step.final_state is not None
                np.testing.assert_array_equal(step.final_state[b], copy.state().astype(np.float32))
                for q, agent in enumerate(env.spec.agents):
                    np.testing.assert_array_equal(step.final_observations[q][b], expected[b][agent].astype(np.float32))
                episodes[b] += 1
                expected[b] = copy.reset(seed=episode_seed(3, b, episodes[b]))[0]
        observations, state = step.observations, env.state()
    if task.split("-")[0] in ("mamujoco/Hopper", "mamujoco/Walker2d", "mamujoco/Humanoid"):
        assert all(episodes), "the comparison should meet ends of episodes"
    env.close()


def test_an_episode_is_truncated_after_1000_steps_and_its_team_return_is_the_robots() -> None:
    env = make_mamujoco("mamujoco/HalfCheetah-2x3", num_envs=2, seed=0)
    shared = SharedEnvironment(env, gamma=0.99, reward_scaling=False)
    shared.reset()
    copy = original("mamujoco/HalfCheetah-2x3").single_agent_env
    copy.reset(seed=episode_seed(0, 0, 0))
    total = 0.0
    actions = random_actions(env, 1000)
    for t, joint_action in enumerate(actions):
        step = shared.step(joint_action)[0]
        assert step.truncated.tolist() == [t == 999] * 2
        assert not step.terminated.any()
        assert (step.final_observation is not None) == (t == 999)
        total += copy.step(np.clip(joint_action[0], -1, 1).astype(np.float64))[1]
    metrics = shared.take_metrics()
    assert metrics["episodes"] == 2
    assert metrics["episode_length_mean"] == 1000
    assert min(abs(metrics[f"team_return_{which}"] - total) for which in ("min", "max")) < 1e-9
    env.close()


@pytest.mark.parametrize(
    ("task", "num_envs"), [("mamujoco/Hopper-3x1", 3), ("mamujoco/Ant-4x2", 1), slow("mamujoco/Humanoid-9|8", 1)]
)
def test_a_restored_environment_continues_bit_for_bit(task: str, num_envs: int) -> None:
    env = make_mamujoco(task, num_envs, seed=1)
    env.reset()
    actions = random_actions(env, 80)
    for joint_action in actions[:30]:
        env.step(joint_action)
    saved = env.state_dict()
    assert saved is not None
    restored = make_mamujoco(task, num_envs, seed=1)
    restored.load_state_dict(saved)
    np.testing.assert_array_equal(restored.state(), env.state())
    for left, right in zip(env.observe(), restored.observe(), strict=True):
        np.testing.assert_array_equal(left, right)
    for joint_action in actions[30:]:
        assert_same_step(env.step(joint_action), restored.step(joint_action))
    with pytest.raises(ValueError, match="saved state"):
        restored.load_state_dict({key: value[:0] for key, value in saved.items()})
    env.close()
    restored.close()


def test_an_environments_episodes_do_not_depend_on_the_batch() -> None:
    alone, batch = (make_mamujoco("mamujoco/Hopper-3x1", num_envs, seed=3) for num_envs in (1, 3))
    np.testing.assert_array_equal(alone.reset()[0][0], batch.reset()[0][0])
    assert len(np.unique(batch.observe()[0], axis=0)) == 3
    for joint_action in random_actions(batch, 60):
        one, many = alone.step(joint_action[:1]), batch.step(joint_action)
        np.testing.assert_array_equal(one.observations[0][0], many.observations[0][0])
        np.testing.assert_array_equal(one.rewards[0], many.rewards[0])
    alone.close()
    batch.close()


def test_returned_arrays_are_never_written_again() -> None:
    env = make_mamujoco("mamujoco/Hopper-3x1", num_envs=2, seed=0)
    kept = [(array, array.copy()) for array in env.reset()]
    for joint_action in random_actions(env, 60):
        step = env.step(joint_action)
        arrays = [*step.observations, *(step.final_observations or []), step.rewards, step.truncated, env.state()]
        arrays += [step.terminated, *([] if step.final_state is None else [step.final_state])]
        kept += [(array, array.copy()) for array in arrays]
    for array, copy in kept:
        np.testing.assert_array_equal(array, copy)
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_the_table_of_partitions_agrees_with_the_original(task: str) -> None:
    spec, copy = mamujoco_spec(task), original(task)
    assert spec.agents == tuple(copy.possible_agents)
    for agent, size, space in zip(spec.agents, spec.observation_sizes, spec.action_spaces, strict=True):
        assert copy.observation_space(agent).shape == (size,)
        bounds = copy.action_space(agent)
        assert space == Box(bounds.shape[0], float(bounds.low[0]), float(bounds.high[0]))
    assert spec.episode_length == copy.single_agent_env.spec.max_episode_steps


@pytest.mark.parametrize(
    ("task", "hint"),
    [
        ("mamujoco/HalfCheetah-2x4", "did you mean 'mamujoco/HalfCheetah-2x3'"),
        ("mamujoco/halfcheetah-2x3", "did you mean 'mamujoco/HalfCheetah-2x3'"),
        ("mamujoco/zzzzz", "expected one of HalfCheetah-2x3, "),
    ],
)
def test_an_unknown_robot_or_partition_is_an_error_with_a_hint(task: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint) as caught:
        make_mamujoco(task, 1, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ["mujoco", "gymnasium_robotics.envs.multiagent_mujoco.mujoco_multi"])
def test_without_the_extra_it_says_what_to_install(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"pip install 'matrpo\[mamujoco\]'") as caught:
        make_mamujoco("mamujoco/Ant-4x2", 1, 0)
    assert "\n" not in str(caught.value)


def test_nothing_is_printed_and_no_file_is_left(tmp_path: Path) -> None:
    program = (
        "import sys; from matrpo.envs.mujoco.mamujoco import make_mamujoco;"
        "from matrpo.envs.mujoco.robots import mamujoco_spec;"
        "mamujoco_spec('mamujoco/HalfCheetah-2x3'); assert 'mujoco' not in sys.modules;"
        "env = make_mamujoco('mamujoco/HalfCheetah-2x3', 2, 0); env.reset(); env.step(env.spec.noop(2)); env.close()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_workers_failure_is_one_line() -> None:
    env = make_mamujoco("mamujoco/Hopper-3x1", num_envs=1, seed=0)
    env.reset()
    env._pool.workers[0].send(b"?")
    with pytest.raises(
        RuntimeError, match=r"^the worker of environments 0 to 0 of mamujoco/Hopper-3x1 failed: KeyError"
    ) as caught:
        env.reset()
    assert "\n" not in str(caught.value)
    env.close()


def test_a_killed_worker_is_an_error_not_a_hang() -> None:
    env = make_mamujoco("mamujoco/Hopper-3x1", num_envs=2, seed=0)
    env.reset()
    env._pool.workers[-1]._process.kill()
    with pytest.raises(RuntimeError, match=r"gone \(exit status -9\)"):
        env.step(env.spec.noop(2))
    env.close()


def test_no_worker_outlives_its_parent() -> None:
    program = (
        "import os, signal; from matrpo.envs.mujoco.mamujoco import make_mamujoco;"
        "env = make_mamujoco('mamujoco/Hopper-3x1', 2, 0); env.reset();"
        "print(*(worker._process.pid for worker in env._pool.workers), flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == min(2, len(os.sched_getaffinity(0)))
    deadline = time.monotonic() + 10
    while any(map(runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(runs, workers))


def test_a_picture_is_of_the_current_state_and_changes_no_trajectory() -> None:
    watched, plain = (make_mamujoco("mamujoco/HalfCheetah-2x3", 1, seed=0) for _ in range(2))
    watched.reset()
    plain.reset()
    frames = []
    for joint_action in random_actions(plain, 20):
        assert_same_step(watched.step(joint_action), plain.step(joint_action))
        frames.append(watched.render())
    assert frames[0].shape == (480, 480, 3)
    assert frames[0].dtype == np.uint8
    assert not np.array_equal(frames[0], frames[-1])
    watched.close()
    watched.close()
    plain.close()
