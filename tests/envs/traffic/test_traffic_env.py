"""Traffic lights in SUMO, against libsumo read by hand."""

from __future__ import annotations

import itertools
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import psutil
import pytest
from roads import write_differing

from matrpo.config import resolve
from matrpo.envs.counter_rng import episode_seed
from matrpo.envs.registry import make_env
from matrpo.envs.traffic.episodes import Episodes
from matrpo.envs.traffic.grid import grid_network, write_grid
from matrpo.envs.traffic.simulation import Simulation
from matrpo.envs.traffic.traffic_env import TrafficEnv
from matrpo.envs.vector_env import VectorEnv
from matrpo.errors import TaskError
from matrpo.run_directory import RunDirectory
from matrpo.runs.graph_settings import build_graph
from matrpo.runs.run_config import run_config
from matrpo.training import InProcessTraining

NORTH, NORTH_ENDS, EAST, EAST_ENDS = "GGGgrrrrGGGgrrrr", "yyyyrrrryyyyrrrr", "rrrrGGGgrrrrGGGg", "rrrryyyyrrrryyyy"
LIGHTS = grid_network(2, 2).lights


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grid(2, 2, tmp_path_factory.mktemp("grid"))


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A list to which each second adds what the lights showed in it."""
    seconds: list[list[str]] = []
    advance = Simulation.advance

    def spied(simulation: Simulation, number: int) -> None:
        for _ in range(number):
            advance(simulation, 1)
            state = simulation.sumo.trafficlight.getRedYellowGreenState
            seconds.append([state(light.name) for light in LIGHTS])

    monkeypatch.setattr(Simulation, "advance", spied)
    return seconds


def played(episodes: Episodes, actions: np.ndarray) -> list[np.ndarray]:
    """The records of a first episode."""
    records = [episodes.reset().copy()]
    for action in actions:
        episodes.joint_action[...] = action
        records.append(episodes.step().copy())
    episodes.simulation.close()
    return records


def test_yellow_comes_before_another_green_and_no_green_is_too_short(grid: Path, shown: list[list[str]]) -> None:
    orders = np.array([1, 0, 1, 0, 0, 0, 0, 1, 1])
    records = played(Episodes(grid, 0, seed=3, length=100), np.tile(orders[:, None], 4))
    runs = [(state, len(list(seconds))) for state, seconds in itertools.groupby(states[0] for states in shown)]
    # 7 seconds have to pass since the last change: the first order changes nothing, nor does the fourth.
    assert runs == [(NORTH, 10), (NORTH_ENDS, 2), (EAST, 8), (EAST_ENDS, 2), (NORTH, 13), (NORTH_ENDS, 2), (EAST, 8)]
    seen = np.array([record["observation"][:3] for record in records])
    assert seen[:, 1].tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 1, 1]
    assert (seen[:, 0] == 1 - seen[:, 1]).all()
    assert seen[:, 2].tolist() == [0, 0, 1, 0, 1, 0, 1, 1, 0, 1]


def test_observations_and_rewards_are_those_read_by_hand(grid: Path, shown: list[list[str]]) -> None:
    actions = np.random.default_rng(1).integers(0, 2, (60, 4)).astype(np.float32)
    first, *records = played(Episodes(grid, 5, seed=3, length=100), actions)
    assert not np.concatenate([part[3:] for part in np.split(first["observation"], 4)]).any()
    by_hand = read_by_hand(grid, episode_seed(3, 5, 0), shown.copy())
    for record, (lanes, rewards) in zip(records, by_hand, strict=True):
        np.testing.assert_allclose(record["rewards"], rewards, rtol=0, atol=1e-12)
        np.testing.assert_allclose([part[3:] for part in np.split(record["observation"], 4)], lanes, rtol=1e-6)
    assert min(record["rewards"].min() for record in records) < -0.2
    assert max(record["rewards"].max() for record in records) > 0.2


def read_by_hand(grid: Path, seed: int, states: list[list[str]]) -> Iterator[tuple[list[list[float]], np.ndarray]]:
    """Densities and queues, and rewards, of every fifth second, by counting vehicles that stand in each second."""
    simulation = Simulation(grid)
    simulation.start(seed)
    sumo = simulation.sumo
    owed: dict[str, float] = defaultdict(float)
    waited: dict[tuple[str, str], float] = defaultdict(float)
    before = np.zeros(4)
    for second, shown in enumerate(states, start=1):
        for light, state in zip(LIGHTS, shown, strict=True):
            sumo.trafficlight.setRedYellowGreenState(light.name, state)
        sumo.simulationStep()
        standing = {vehicle for vehicle in sumo.vehicle.getIDList() if sumo.vehicle.getSpeed(vehicle) < 0.1}
        for vehicle in standing:
            owed[vehicle] += 1.0
        if second % 5:
            continue
        lanes, now = [], np.zeros(4)
        for q, light in enumerate(LIGHTS):
            there = {lane: sumo.lane.getLastStepVehicleIDs(lane) for lane in light.lanes}
            for lane, vehicles in there.items():
                for vehicle in vehicles:
                    waited[vehicle, lane] += owed.pop(vehicle, 0.0)
                    now[q] += waited[vehicle, lane] / 100
            # A vehicle is 5 m long, and 2.5 m lie between two that stand.
            most = [sumo.lane.getLength(lane) / 7.5 for lane in light.lanes]
            queues = [len(standing & set(vehicles)) for vehicles in there.values()]
            lanes.append([*np.divide(list(map(len, there.values())), most), *np.divide(queues, most)])
        yield lanes, before - now
        before = now
    simulation.close()


def test_times_are_those_of_sumo_s_own_file_of_trips(tmp_path: Path) -> None:
    """With so much traffic that many vehicles have not arrived, and some have not even started."""
    path = write_grid(2, 2, tmp_path)
    routes = path.with_name("grid-2x2.rou.xml")
    routes.write_text(routes.read_text().replace("exp(0.014", "exp(0.06"))
    simulation = Simulation(path)
    written = ["--tripinfo-output", str(tmp_path / "trips.xml"), "--tripinfo-output.write-unfinished", "true"]
    simulation.options += [*written, "--tripinfo-output.write-undeparted", "true"]
    simulation.start(0)
    simulation.advance(150)
    trips = simulation.trips()
    simulation.close()
    keys = ("waitingTime", "duration", "departDelay", "arrival", "depart")
    entries = ElementTree.parse(tmp_path / "trips.xml").getroot()
    waiting, duration, late, arrival, start = np.array(
        [[float(entry.attrib[key]) for key in keys] for entry in entries]
    ).T
    arrived, started = arrival >= 0, start >= 0
    assert 0 < arrived.sum() < started.sum() < len(started)
    # SUMO gives means of those that have arrived in hundredths of a second.
    assert trips.waiting_time == pytest.approx((waiting + late).mean(), abs=0.01)
    assert trips.travel_time == pytest.approx((duration + late).mean(), abs=0.01)


def greens(grid: Path, shown: list[list[str]], control: Callable[[Simulation], None]) -> list[int]:
    """How long the first light was green, phase by phase, during 200 seconds."""
    simulation = Simulation(grid)
    simulation.start(0)
    control(simulation)
    simulation.advance(200)
    simulation.close()
    runs = itertools.groupby(states[0] for states in shown)
    return [len(list(run)) for state, run in runs if state in (NORTH, EAST)]


def test_fixed_greens_are_as_long_as_they_are_said_to_be(grid: Path, shown: list[list[str]]) -> None:
    # With 2 seconds of yellow each.
    assert greens(grid, shown, lambda simulation: simulation.fix(18)) == [18] * 10


def test_actuated_control_ends_a_green_phase_that_nobody_uses(grid: Path, shown: list[list[str]]) -> None:
    lengths = greens(grid, shown, Simulation.actuate)[:-1]
    assert min(lengths) >= 5
    assert len(set(lengths)) > 2


def rolled(env: VectorEnv, steps: int) -> list[np.ndarray]:
    """All that an environment hands over in some steps."""
    random = np.random.default_rng(0)
    handed = list(env.reset())
    try:
        for _ in range(steps):
            step = env.step(np.tile(random.integers(0, 2, (1, 4)), (env.num_envs, 1)).astype(np.float32))
            handed += [*step.observations, step.rewards, step.truncated]
            if step.ended.any():
                assert step.final_observations is not None
                assert step.statistics is not None
                handed += [*step.final_observations, step.statistics]
    finally:
        env.close()
    return handed


def test_episodes_are_cut_off_and_depend_on_seed_and_numbers_alone() -> None:
    both = rolled(make_env("traffic/grid-2x2", None, 2, seed=4, episode_length=12), 25)
    alone = rolled(make_env("traffic/grid-2x2", None, 1, seed=4, first=1, episode_length=12), 25)
    assert len(both) == len(alone) == 4 + 25 * 6 + 2 * 5
    for whole, part in zip(both, alone, strict=True):
        np.testing.assert_array_equal(whole[1:], part)
    assert any((array[0] != array[1]).any() for array in both)
    cut = [array.tolist() for array in alone if array.dtype == bool]
    assert [step for step, truncated in enumerate(cut, start=1) if truncated == [[True] * 4]] == [12, 24]
    statistics = [array for array in alone if array.shape == (1, 2)]
    assert all(5.0 < travelled < 60.0 and 0.0 < waited < travelled for ((waited, travelled),) in statistics)


def test_lights_whose_agents_are_gone_change_as_soon_as_they_may() -> None:
    env = make_env("traffic/grid-2x2", None, 2, seed=4, episode_length=5)
    try:
        env.reset()
        orders = []
        for _ in range(9):
            orders.append(env.default_actions())
            env.step(orders[-1])
    finally:
        env.close()
    assert {(order.shape, order.dtype.name) for order in orders} == {((2, 4), "float32")}
    # A light may first change 10 seconds after an episode's beginning, and then every 10; the fifth step ends one.
    assert [np.unique(order).tolist() for order in orders] == [[0], [0], [1], [1], [0], [0], [0], [1], [1]]


def test_a_worker_that_dies_is_named_and_nothing_is_left_behind() -> None:
    env = make_env("traffic/grid-1x1", None, 2, seed=0)
    env.reset()
    inner = env.inner  # type: ignore[attr-defined]
    assert isinstance(inner, TrafficEnv)
    folder, workers = inner._network.parent, [psutil.Process(worker._process.pid) for worker in inner._workers]
    assert folder.is_dir()
    os.kill(inner._workers[1]._process.pid, signal.SIGKILL)
    with pytest.raises(TaskError, match=r"the worker of environment 1 of traffic/grid-1x1 (is gone|takes)") as raised:
        env.step(np.zeros((2, 1), dtype=np.float32))
    assert "\n" not in str(raised.value)
    env.close()
    env.close()
    assert not folder.exists()
    assert not any(worker.is_running() for worker in workers)


def test_routes_that_sumo_refuses_are_told_in_one_line(tmp_path: Path) -> None:
    path = write_differing(tmp_path)
    path.with_name("town.rou.xml").write_text(
        '<routes><flow id="f" from="x" to="y" begin="0" end="9" number="1"/></routes>'
    )
    env = make_env(f"traffic/{path}", None, 1, seed=0)
    with pytest.raises(TaskError, match="The edge 'x' within the route for flow 'f' is not known") as raised:
        env.reset()
    assert "\n" not in str(raised.value)
    env.close()


def test_agents_that_differ_learn_along_their_roads(tmp_path: Path) -> None:
    given = {"task": f"traffic/{write_differing(tmp_path)}", "topology": "road", "episode_length": 6, "num_envs": 1}
    sizes = {"rollout_length": 12, "steps": 12, "hidden_sizes": (8,), "tensorboard": False}
    config = run_config(resolve(("test", given | sizes)))
    assert build_graph(config).links == ((0, 1), (0, 2), (1, 3), (2, 3), (2, 4), (3, 5), (4, 5))
    run = RunDirectory.create(tmp_path / "run", config, {})
    training = InProcessTraining(run)
    training.iterate()
    training.environment.env.close()
    (line,) = run.env.read_metrics()
    assert line["episodes"] == 2
    assert 0.0 < line["waiting_time"] < line["travel_time"] < 30.0
