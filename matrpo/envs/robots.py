"""One MaMuJoCo robot: gymnasium-robotics' task taken apart into what steps fast and can be saved."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from matrpo.config import ConfigError
from matrpo.envs.extras import import_extra
from matrpo.envs.task_names import unknown_task
from matrpo.spaces import Box, TaskSpec

PARTITIONS: dict[str, tuple[str, ...]] = {
    "HalfCheetah": ("2x3", "3x2", "6x1"),
    "Ant": ("2x4", "4x2", "8x1"),
    "Walker2d": ("2x3", "3x2", "6x1"),
    "Hopper": ("3x1",),
    "Swimmer": ("10x2",),
    "Humanoid": ("9|8", "17x1"),
    "HumanoidStandup": ("17x1",),
}
"""How each robot's joints may be dealt out: agents x joints of each, or the numbers of joints with bars between."""

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
"""What rewards compare with the step before, and the integrator's state does not hold."""
_LOG = logging.getLogger(__name__)


def num_agents(name: str) -> int:
    """The agents of the task `mamujoco/<Robot>-<partition>`.

    Raises:
        ConfigError: there is no such task.
    """
    partition = _split(name)[1]
    return partition.count("|") + 1 if "|" in partition else int(partition.split("x")[0])


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
        scenario, partition = _split(name)
        mujoco, library = _import()
        self._mujoco = mujoco
        factored = _factored(library, scenario, partition, "rgb_array" if drawable else None)
        self._env = factored.single_agent_env.unwrapped
        self.spec = _spec(name, factored)
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
        """Act once.

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
        action[self._actuators] = np.clip(joint_action, space.low, space.high)
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
        """All that the next steps depend on, as one float64 vector."""
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


def _split(name: str) -> tuple[str, str]:
    robot, _, partition = name.removeprefix("mamujoco/").partition("-")
    if partition in PARTITIONS.get(robot, ()):
        return robot, partition
    known = [f"{robot}-{partition}" for robot, partitions in PARTITIONS.items() for partition in partitions]
    raise unknown_task("mamujoco/", name.removeprefix("mamujoco/"), known)


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


def _spec(name: str, factored: Any) -> TaskSpec:
    agents = factored.possible_agents
    bounds = factored.single_agent_env.action_space
    low, high = float(bounds.low[0]), float(bounds.high[0])
    return TaskSpec(
        name=name,
        agents=tuple(agents),
        observation_sizes=tuple(factored.observation_space(agent).shape[0] for agent in agents),
        action_spaces=tuple(Box(factored.action_space(agent).shape[0], low, high) for agent in agents),
        episode_length=factored.single_agent_env.spec.max_episode_steps,
    )


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
