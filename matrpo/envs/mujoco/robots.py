"""One MaMuJoCo robot: gymnasium-robotics' task without its wrappers, to step fast and to be checkpointed."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from matrpo.envs.extras import import_extra
from matrpo.envs.task_names import unknown_task
from matrpo.errors import ConfigError
from matrpo.spaces import Box, TaskSpec

_SEEN_BY_HUMANOID_JOINTS = (92, 92, 92, 64, 64, 64, 61, 64, 64, 64, 61, 85, 85, 38, 85, 85, 38)

PARTITIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "HalfCheetah-2x3": ((3, 3), (12, 12)),
    "HalfCheetah-3x2": ((2, 2, 2), (10, 12, 11)),
    "HalfCheetah-6x1": ((1,) * 6, (9, 9, 8, 9, 9, 8)),
    "Ant-2x4": ((4, 4), (63, 63)),
    "Ant-4x2": ((2,) * 4, (42,) * 4),
    "Ant-8x1": ((1,) * 8, (29, 32) * 4),
    "Walker2d-2x3": ((3, 3), (12, 12)),
    "Walker2d-3x2": ((2, 2, 2), (10, 12, 11)),
    "Walker2d-6x1": ((1,) * 6, (8, 9, 9, 8, 9, 9)),
    "Hopper-3x1": ((1, 1, 1), (8, 9, 8)),
    "Swimmer-10x2": ((2,) * 10, (5, *(6,) * 8, 5)),
    "Humanoid-9|8": ((9, 8), (242, 170)),
    "Humanoid-17x1": ((1,) * 17, _SEEN_BY_HUMANOID_JOINTS),
    "HumanoidStandup-17x1": ((1,) * 17, _SEEN_BY_HUMANOID_JOINTS),
}
"""Each robot and partition: how many joints each agent moves, and how many numbers it observes."""

EPISODE_LENGTH = 1000
_DEALT_HERE = {"3x2", "8x1", "17x1", "Walker2d-6x1"}
"""Partitions that the library does not know, of any robot or of one."""
_SCENARIOS = {"Swimmer": "ManySegmentSwimmer"}
_JOINT_ORDERS = {
    "HalfCheetah": ("bfoot", "bshin", "bthigh", "ffoot", "fshin", "fthigh"),
    "Ant": ("hip1", "ankle1", "hip2", "ankle2", "hip3", "ankle3", "hip4", "ankle4"),
}
"""The order in which joints are dealt out, where the code of the HATRPO paper and the library's list differ."""
_FIELDS = ("qpos", "qvel", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")
_OUTCOMES = ("xpos", "xipos")
"""Simulator fields that rewards compare with the step before and that the integration state does not hold."""
_LOG = logging.getLogger(__name__)


def mamujoco_spec(name: str) -> TaskSpec:
    """Agents and spaces of the task `mamujoco/<Robot>-<partition>`; nothing needs to be installed for it.

    Raises:
        ConfigError: there is no such task.
    """
    task = name.removeprefix("mamujoco/")
    if task not in PARTITIONS:
        raise unknown_task("mamujoco/", task, PARTITIONS)
    joints, observation_sizes = PARTITIONS[task]
    # The humanoids' bound is a float32.
    bound = float(np.float32(0.4)) if task.startswith("Humanoid") else 1.0
    return TaskSpec(
        name=name,
        agents=tuple(f"agent_{q}" for q in range(len(joints))),
        observation_sizes=observation_sizes,
        action_spaces=tuple(Box(size, -bound, bound) for size in joints),
        episode_length=EPISODE_LENGTH,
    )


class Robot:
    """A robot, stepped without wrappers, whose joints are dealt out to agents.

    What an agent observes is a choice of the simulator's numbers, some of them clipped. Which ones is found once by
    probing the library's own function with marked values; `observations` is then one indexing for many robots.

    Args:
        name: the task, `mamujoco/<Robot>-<partition>`.
        drawable: whether `render` will be called.

    Raises:
        ConfigError: there is no such task, or the extra `mamujoco` is not installed.
    """

    def __init__(self, name: str, drawable: bool = False) -> None:
        self.spec = mamujoco_spec(name)
        robot, partition = name.removeprefix("mamujoco/").split("-")
        mujoco, library = _import()
        self._mujoco = mujoco
        factored = _factored(library, robot, partition, "rgb_array" if drawable else None)
        self._env = factored.single_agent_env.unwrapped
        data = self._env.data
        self._fields = [getattr(data, field) for field in _FIELDS]
        self._outcomes = [getattr(data, outcome) for outcome in _OUTCOMES]
        self.num_readings = sum(field.size for field in self._fields)
        self._chosen, self._low, self._high = _probe(library, factored, self._fields)
        self._actuators = [node.act_ids for part in factored.agent_action_partitions for node in part]
        self.state_size = int(np.prod(self._env.observation_space.shape))
        self._integration = mujoco.mjtState.mjSTATE_INTEGRATION
        self._integration_size = mujoco.mj_stateSize(self._env.model, self._integration)
        self._elapsed = 0

    def reset(self, seed: int) -> np.ndarray:
        """Begin an episode; the robot's whole state, (S,) float64, as the single-agent task observes it."""
        self._elapsed = 0
        return np.asarray(self._env.reset(seed=seed)[0])

    def step(self, joint_action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        """Advance the robot by one step.

        Args:
            joint_action: (W,) float32, agent by agent; clipped to the actuators' bounds.

        Returns:
            state: (S,) float64.
            reward: the robot's.
            terminated: whether it is no longer healthy, where the task ends on that.
            truncated: whether the time limit cut an episode that had not terminated.
        """
        space = self.spec.action_spaces[0]
        assert isinstance(space, Box)
        action = np.empty(len(joint_action))
        action[self._actuators] = np.clip(joint_action, space.low[0], space.high[0])
        state, reward, terminated, _, _ = self._env.step(action)
        self._elapsed += 1
        out_of_time = self._elapsed == self.spec.episode_length
        return state, float(reward), bool(terminated), out_of_time and not terminated

    def read(self, readings: np.ndarray) -> None:
        """Copy the simulator's numbers that observations are made of into `readings`, (num_readings,) float64."""
        np.concatenate([field.ravel() for field in self._fields], out=readings)

    def observations(self, readings: np.ndarray) -> np.ndarray:
        """All agents' observations side by side, (b, O) float32, from the readings of b robots, (b, num_readings)."""
        chosen: np.ndarray = np.clip(readings[:, self._chosen], self._low, self._high).astype(np.float32)
        return chosen

    def save(self) -> np.ndarray:
        """The checkpoint of the robot, all that the next steps depend on, as one float64 vector."""
        simulation = np.empty(self._integration_size)
        self._mujoco.mj_getState(self._env.model, self._env.data, simulation, self._integration)
        return np.concatenate([simulation, *(outcome.ravel() for outcome in self._outcomes), [self._elapsed]])

    def load(self, saved: np.ndarray) -> None:
        """Continue exactly where `save` was called."""
        simulation, outcomes = saved[: self._integration_size], saved[self._integration_size : -1]
        self._mujoco.mj_setState(self._env.model, self._env.data, simulation, self._integration)
        for outcome in self._outcomes:
            outcome.ravel()[...] = outcomes[: outcome.size]
            outcomes = outcomes[outcome.size :]
        self._elapsed = int(saved[-1])

    def render(self) -> np.ndarray:
        """The simulator's picture of the robot, (H, W, 3) uint8.

        Raises:
            ConfigError: no OpenGL that needs no display could be started.
        """
        self._mujoco.mj_forward(self._env.model, self._env.data)
        try:
            return np.asarray(self._env.render(), dtype=np.uint8)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(
                f"cannot draw {self.spec.name}: OpenGL did not start with MUJOCO_GL={os.environ.get('MUJOCO_GL')} "
                f"({reason}); install EGL and set MUJOCO_GL=egl, or OSMesa and MUJOCO_GL=osmesa"
            ) from None

    def close(self) -> None:
        """Release the simulator."""
        self._env.close()


def _import() -> tuple[Any, Any]:
    """The modules `mujoco` and gymnasium-robotics' `mujoco_multi`."""
    if "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")
    mujoco = import_extra("mujoco", "mamujoco")
    library = import_extra("gymnasium_robotics.envs.multiagent_mujoco.mujoco_multi", "mamujoco")
    # MuJoCo's own handler writes MUJOCO_LOG.TXT into the working directory.
    mujoco.set_mju_user_warning(_warn)
    return mujoco, library


def _warn(text: str) -> None:
    _LOG.log(logging.DEBUG if "deprecated" in text else logging.WARNING, "MuJoCo: %s", text.strip())


def _factored(library: Any, robot: str, partition: str, render_mode: str | None) -> Any:
    scenario = _SCENARIOS.get(robot, robot)
    factorization = None
    if {partition, f"{robot}-{partition}"} & _DEALT_HERE:
        (joints,), edges, joined = library.get_parts_and_edges(scenario, None)
        if robot in _JOINT_ORDERS:
            joints = sorted(joints, key=lambda node: _JOINT_ORDERS[robot].index(node.label))
        size = int(partition.split("x")[1])
        parts = [tuple(joints[i : i + size]) for i in range(0, len(joints), size)]
        factorization = {"partition": parts, "edges": edges, "globals": joined}
    return library.MultiAgentMujocoEnv(
        scenario,
        partition,
        agent_factorization=factorization,
        gym_env=_many_segment_swimmer(library, partition, render_mode) if robot == "Swimmer" else None,
        render_mode=render_mode,
    )


def _many_segment_swimmer(library: Any, partition: str, render_mode: str | None) -> Any:
    """As the library makes it, but not with a file in the installed package, where processes would collide."""
    agents, joints = (int(number) for number in partition.split("x"))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "swimmer.xml"
        library.many_segment_swimmer.gen_asset(n_segs=agents * joints, asset_path=str(path))
        return library.gymnasium.make("Swimmer-v5", xml_file=str(path), render_mode=render_mode)


def _probe(library: Any, factored: Any, fields: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each number that the agents observe: which reading it is, and the bounds that it is clipped to."""
    ends = np.cumsum([field.size for field in fields])

    def observe(readings: np.ndarray) -> np.ndarray:
        parts = np.split(readings, ends[:-1])
        shaped = {name: part.reshape(field.shape) for name, part, field in zip(_FIELDS, parts, fields, strict=True)}
        seen = [
            library.build_obs(
                SimpleNamespace(**shaped),
                joints,
                factored.local_categories,
                factored.mujoco_globals,
                factored.global_categories,
            )
            for joints in factored.k_dicts
        ]
        return np.concatenate(seen)

    # Marks so small that no bound touches them, and exact; then values that every bound touches.
    mark, far = 2.0**-20, 1e9
    chosen = np.rint(observe(np.arange(ends[-1]) * mark) / mark).astype(np.intp)
    low, high = observe(np.full(ends[-1], -far)), observe(np.full(ends[-1], far))
    return chosen, np.where(low > -far, low, -np.inf), np.where(high < far, high, np.inf)
