"""Multi-agent MuJoCo (Peng et al., FACMAC, 2021) as gymnasium-robotics has it, stepped in worker processes."""

from __future__ import annotations

import numpy as np

from matrpo.envs import counter_rng
from matrpo.envs.family import Family, KnownTask, fixed_task, packages
from matrpo.envs.mujoco.robots import PARTITIONS, Robot, mamujoco_spec
from matrpo.envs.vector_env import VectorEnv, VectorStep
from matrpo.envs.workers.pool import WorkerPool, team_step
from matrpo.envs.workers.worker import Worker


class MamujocoEnv(VectorEnv):
    """B vectorised MuJoCo robots, the joints of each divided among N agents.

    Agents observe their own joints and, of the joints next to them, the positions (the library's default). Each
    agent is paid the N-th part of the robot's reward, so that the team's return is the robot's own. The state for
    centralised critics is what the single-agent task observes. An episode ends by termination where the
    single-agent task's does, and is truncated after 1000 steps. Episode e of environment b starts as a function of
    (seed, b, e) alone.

    The environments are dealt out to as many processes as there are cores; these start at the first order.

    Args:
        name: the task, `mamujoco/<Robot>-<partition>`.
        num_envs: B.
        seed: of the initial states.

    Raises:
        ConfigError: there is no such task, or the extra `mamujoco` is not installed.
        RuntimeError: a worker failed, from any method; the text is one line.
    """

    def __init__(self, name: str, num_envs: int, seed: int) -> None:
        robot = Robot(name)
        self.spec = robot.spec
        self.num_envs = num_envs
        self._record = record(robot)
        self._saved_size = robot.save().size
        robot.close()
        self._drawable: Robot | None = None
        self._records: np.ndarray | None = None
        self._seed = seed
        self._first = 0
        self._pool = WorkerPool(num_envs, self._start_worker)

    def number_from(self, first: int) -> None:
        self._first = first

    def limit_workers(self, most: int) -> None:
        """Distribute the robots over at most so many worker processes."""
        self._pool.limit(most)

    def reset(self) -> list[np.ndarray]:
        self._order(b"r")
        return self.observe()

    def step(self, joint_action: np.ndarray) -> VectorStep:
        """Advance every robot by one step; actions are clipped to their bounds."""
        self._check_action(joint_action)
        if self._records is None:
            raise RuntimeError("reset the environment before stepping it")
        self._order(b"s", joint_action.astype(np.float32, copy=False))
        records = self._records
        step = team_step(records, self.observe())
        if step.ended.any():
            step.final_observations = self._split(records["final_observation"])
            step.final_state = records["final_state"].copy()
        return step

    def observe(self) -> list[np.ndarray]:
        assert self._records is not None
        return self._split(self._records["observation"])

    def state(self) -> np.ndarray:
        """What the single-agent task observes: (B, S) float32."""
        assert self._records is not None
        state: np.ndarray = self._records["state"].copy()
        return state

    def state_dict(self) -> dict[str, np.ndarray] | None:
        """MuJoCo's integration state and what else the next step needs, and what is observed now."""
        assert self._records is not None
        robots = np.empty((self.num_envs, self._saved_size + 1))
        self._pool.order(b"g", None, robots)
        return {"robots": robots, "observation": self._records["observation"].copy(), "state": self.state()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        records = np.zeros(self.num_envs, dtype=self._record)
        expected = {
            "robots": (self.num_envs, self._saved_size + 1),
            "observation": records["observation"].shape,
            "state": records["state"].shape,
        }
        if {key: value.shape for key, value in state.items()} != expected:
            raise ValueError(f"the saved state is not of {self.spec.name} with as many environments")
        records["observation"], records["state"] = state["observation"], state["state"]
        self._pool.order(b"l", state["robots"], np.empty((self.num_envs, 0)))
        self._records = records

    def render(self) -> np.ndarray:
        """MuJoCo's picture of environment 0, (480, 480, 3) uint8.

        Raises:
            ConfigError: no OpenGL that needs no display could be started.
        """
        saved = self.state_dict()
        assert saved is not None
        if self._drawable is None:
            self._drawable = Robot(self.spec.name, drawable=True)
        self._drawable.load(saved["robots"][0, :-1])
        return self._drawable.render()

    def close(self) -> None:
        self._pool.close()
        if self._drawable is not None:
            self._drawable.close()
            self._drawable = None

    def _order(self, letter: bytes, content: np.ndarray | None = None) -> None:
        records = np.empty(self.num_envs, dtype=self._record)
        self._pool.order(letter, content, records)
        self._records = records

    def _start_worker(self, first: int, stop: int) -> Worker:
        first, stop, name = self._first + first, self._first + stop, self.spec.name
        label = f"the worker of environments {first} to {stop - 1} of {name}"
        return Worker(label, "matrpo.envs.mujoco.mamujoco_worker", [name, str(first), str(stop), str(self._seed)])

    def _split(self, joined: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum(self.spec.observation_sizes)[:-1]
        return [np.ascontiguousarray(part) for part in np.split(joined, ends, axis=1)]


class Share:
    """The robots of one worker: environments `first` to `stop` - 1 of a batch."""

    def __init__(self, name: str, first: int, stop: int, seed: int) -> None:
        self._robots = [Robot(name) for _ in range(first, stop)]
        self._first = first
        self._seed = seed
        self._episodes = np.full(len(self._robots), -1, dtype=np.int64)
        self._readings = np.empty((len(self._robots), self._robots[0].num_readings))
        self._records = np.zeros(len(self._robots), dtype=record(self._robots[0]))
        self.joint_actions = np.empty((stop - first, self._robots[0].spec.joint_action_width), dtype=np.float32)
        self.saved = np.empty((stop - first, self._robots[0].save().size + 1))

    def reset(self) -> np.ndarray:
        """Begin the next episode everywhere; a record for each robot."""
        for k in range(len(self._robots)):
            self._begin_episode(k)
        self._records["observation"] = self._robots[0].observations(self._readings)
        return self._records

    def step(self) -> np.ndarray:
        """Step every robot by its row of `joint_actions`; a record for each robot."""
        records = self._records
        for k, robot in enumerate(self._robots):
            state, records["reward"][k], records["terminated"][k], records["truncated"][k] = robot.step(
                self.joint_actions[k]
            )
            records["state"][k] = state
            robot.read(self._readings[k])
        records["observation"] = self._robots[0].observations(self._readings)
        # Always, since an episode may end in another worker's share.
        records["final_observation"], records["final_state"] = records["observation"], records["state"]
        ended = np.flatnonzero(records["terminated"] | records["truncated"])
        if ended.size:
            for k in ended.tolist():
                self._begin_episode(k)
            records["observation"][ended] = self._robots[0].observations(self._readings[ended])
        return records

    def save(self) -> np.ndarray:
        """The checkpoint of each robot, `Robot.save`, and its episode's number."""
        for k, robot in enumerate(self._robots):
            self.saved[k, :-1] = robot.save()
        self.saved[:, -1] = self._episodes
        return self.saved

    def load(self) -> None:
        """Restore the robots from `saved`."""
        for k, robot in enumerate(self._robots):
            robot.load(self.saved[k, :-1])
        self._episodes[...] = self.saved[:, -1]

    def _begin_episode(self, k: int) -> None:
        self._episodes[k] += 1
        seed = counter_rng.episode_seed(self._seed, self._first + k, int(self._episodes[k]))
        self._records["state"][k] = self._robots[k].reset(seed)
        self._robots[k].read(self._readings[k])


def make_mamujoco(name: str, num_envs: int, seed: int) -> MamujocoEnv:
    """Build `num_envs` robots of the task `mamujoco/<Robot>-<partition>`.

    Raises:
        ConfigError: there is no such task, or the extra `mamujoco` is not installed.
    """
    return MamujocoEnv(name, num_envs, seed)


def record(robot: Robot) -> np.dtype[np.void]:
    """The data type of a worker's answer for one robot after a step."""
    seen = (np.float32, (sum(robot.spec.observation_sizes),))
    state = (np.float32, (robot.state_size,))
    return np.dtype(
        [
            ("reward", np.float64),
            ("terminated", np.bool_),
            ("truncated", np.bool_),
            ("observation", *seen),
            ("state", *state),
            ("final_observation", *seen),
            ("final_state", *state),
        ],
        align=True,
    )


def _task(robot_and_partition: str) -> KnownTask:
    spec = mamujoco_spec(f"mamujoco/{robot_and_partition}")
    robot = robot_and_partition.split("-")[0]
    return fixed_task(spec, f"{spec.num_agents} agents share the joints of MuJoCo's {robot}", make_mamujoco)


FAMILY = Family(
    pattern="mamujoco/<Robot>-<partition>",
    description="MuJoCo's robots, their joints shared by several agents",
    needs=packages("matrpo[mamujoco]", "gymnasium_robotics", "mujoco"),
    tasks=tuple(map(_task, PARTITIONS)),
)
