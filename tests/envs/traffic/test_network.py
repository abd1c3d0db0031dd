"""What is read of SUMO's networks, against SUMO itself, and what is said of those that are no use."""

from __future__ import annotations

from pathlib import Path

import pytest
from roads import write_differing

from matrpo.envs.registry import canonical_name, make_env, task_spec
from matrpo.envs.traffic.grid import grid_network, write_grid
from matrpo.envs.traffic.network import read_network
from matrpo.envs.traffic.simulation import Simulation
from matrpo.errors import ConfigError
from matrpo.spaces import Discrete

LIGHT = '<tlLogic id="{0}" type="static" programID="0"><phase duration="9" state="{1}"/></tlLogic>'
CONTROLLED = '<connection from="{0}" to="z" fromLane="0" toLane="0" tl="{1}" linkIndex="0"/>'


def write_net(folder: Path, *elements: str) -> Path:
    path = folder / "own.net.xml"
    path.write_text("<net>" + "".join(elements) + "</net>")
    path.with_name("own.rou.xml").write_text("<routes/>")
    return path


def edge(start: str, end: str) -> str:
    return f'<edge id="{start}{end}" from="{start}" to="{end}"/>'


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (3, 11), (2, 28)])
def test_a_grid_s_lights_are_known_without_building_it(rows: int, columns: int, tmp_path: Path) -> None:
    network = read_network(write_grid(rows, columns, tmp_path))
    assert network == grid_network(rows, columns)
    assert len(network.roads) == rows * (columns - 1) + columns * (rows - 1)


def test_a_network_s_lights_are_sumo_s(tmp_path: Path) -> None:
    path = write_differing(tmp_path)
    network = read_network(path)
    simulation = Simulation(path)
    simulation.start(0)
    control = simulation.sumo.trafficlight
    assert [light.name for light in network.lights] == list(control.getIDList())
    for light in network.lights:
        assert light.lanes == tuple(dict.fromkeys(control.getControlledLanes(light.name)))
        phases = [phase.state for phase in control.getAllProgramLogics(light.name)[0].phases]
        assert light.greens == tuple(phases[::2])
    simulation.close()
    assert [len(light.greens) for light in network.lights] == [1, 1, 2, 2, 1, 1]
    assert network.roads == ((0, 1), (0, 2), (1, 3), (2, 3), (2, 4), (3, 5), (4, 5))


def test_agents_of_a_network_of_one_s_own_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_differing(tmp_path)
    monkeypatch.chdir(tmp_path)
    name = f"traffic/{tmp_path}/town.net.xml"
    assert canonical_name("traffic/town.net.xml") == canonical_name(name) == name
    spec = task_spec("traffic/town.net.xml", None)
    assert spec.agents == ("A0", "A1", "B0", "B1", "C0", "C1")
    assert spec.observation_sizes == (6, 6, 9, 9, 6, 6)
    assert spec.action_spaces == tuple(Discrete(n) for n in (1, 1, 2, 2, 1, 1))
    env = make_env(name, None, num_envs=1, seed=0)
    assert env.spec == spec
    env.close()


def test_a_road_joins_lights_past_junctions_without_any(tmp_path: Path) -> None:
    """A and B by way of x, one way only; C by way of B alone."""
    roads = [edge("a", "x"), edge("x", "b"), edge("b", "c"), edge("y", "a")]
    lit = [LIGHT.format(name, "Gr") for name in "CAB"]
    controlled = [CONTROLLED.format(road, light) for road, light in (("ya", "A"), ("xb", "B"), ("bc", "C"))]
    network = read_network(write_net(tmp_path, *roads, *controlled, *lit))
    assert [light.name for light in network.lights] == ["A", "B", "C"]
    assert network.roads == ((0, 1), (1, 2))


@pytest.mark.parametrize(
    ("elements", "problem"),
    [
        ([edge("a", "b")], "has no traffic lights, and so no agents"),
        ([LIGHT.format("A", "GG")], "has no traffic lights, and so no agents"),
        ([LIGHT.format("A", "rs"), CONTROLLED.format("ab", "A")], "traffic light 'A' of .* has no green phase"),
        (['<tlLogic type="static"/>'], "is no network of SUMO: it lacks 'id'"),
        (["<edge>"], "is no network of SUMO: mismatched tag: line 1, column"),
    ],
)
def test_a_network_without_agents_is_refused(elements: list[str], problem: str, tmp_path: Path) -> None:
    path = write_net(tmp_path, *elements)
    with pytest.raises(ConfigError, match=problem) as raised:
        task_spec(f"traffic/{path}", None)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    path = write_net(tmp_path, LIGHT.format("A", "G"), CONTROLLED.format("ab", "A"))
    (tmp_path / "own.rou.xml").unlink()
    with pytest.raises(ConfigError, match=f"there is no file {tmp_path}/own.rou.xml with the routes of the network"):
        task_spec(f"traffic/{path}", None)
    path.unlink()
    with pytest.raises(ConfigError, match=f"there is no file {path} with the network"):
        task_spec(f"traffic/{path}", None)


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        ("traffic/grid-2x0", "expected 1 to 100 rows and columns"),
        ("traffic/grid-2by2", "expected traffic/grid-<R>x<C>, traffic/path/to/<name>.net.xml"),
        ("traffic/grid-2x2", "has exactly 4"),
        ("traffic/a,b.net.xml", "SUMO takes the comma in .*/a,b.net.xml for the end"),
    ],
)
def test_other_names_and_numbers_are_refused(task: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        task_spec(task, 3)


def test_without_sumo_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matrpo.envs.family.find_spec", lambda _module: None)
    with pytest.raises(ConfigError, match=r"'traffic/grid-2x2': not installed: sumo, libsumo; pip install 'matrpo\[tr"):
        make_env("traffic/grid-2x2", None, num_envs=1, seed=0)
    assert task_spec("traffic/grid-2x2", None).num_agents == 4
