"""Grids of junctions, R rows of C, which SUMO's netgenerate makes; traffic enters all around, at random."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

from matrpo.envs.traffic.network import Network, TrafficLight, routes_beside
from matrpo.envs.traffic.simulation import YELLOW
from matrpo.errors import ConfigError

MOST = 100
"""Most rows or columns."""

_LENGTH = 200
_LANES = 2
_ENTERING = 0.1
"""Vehicles a second that enter on each road that leads into the grid, on average."""

_GREENS = ("GGGgrrrrGGGgrrrr", "rrrrGGGgrrrrGGGg")
"""North and south may go, or east and west; who turns left gives way."""


def parse_grid(name: str) -> tuple[int, int] | None:
    """Rows and columns of `grid-RxC`; None if that is not what `name` says.

    Raises:
        ConfigError: there are too many, or none.
    """
    if not (found := re.fullmatch(r"grid-(\d{1,9})x(\d{1,9})", name)):
        return None
    rows, columns = int(found[1]), int(found[2])
    if not 1 <= min(rows, columns) <= max(rows, columns) <= MOST:
        raise ConfigError(f"bad value 'traffic/{name}' for 'task': expected 1 to {MOST} rows and columns")
    return rows, columns


def grid_network(rows: int, columns: int) -> Network:
    """The traffic lights of a grid, as `read_network` reads them of what `write_grid` makes."""
    places = {_name(row, column, columns): (row, column) for row in range(rows) for column in range(columns)}
    lights = tuple(TrafficLight(name, _GREENS, _lanes(*places[name], rows, columns)) for name in sorted(places))
    numbers = {places[light.name]: number for number, light in enumerate(lights)}
    roads = [
        tuple(sorted((number, numbers[other])))
        for (row, column), number in numbers.items()
        for other in ((row + 1, column), (row, column + 1))
        if other in numbers
    ]
    return Network(lights, tuple(sorted((i, j) for i, j in roads)))


def write_grid(rows: int, columns: int, folder: Path) -> Path:
    """Write a grid and its traffic; the network's file, beside which the routes lie.

    Vehicles enter by Poisson processes, from everywhere to everywhere else outside the grid, on shortest ways.

    Raises:
        ConfigError: netgenerate fails.
    """
    path = folder / f"grid-{rows}x{columns}.net.xml"
    options = {
        "grid.x-number": columns,
        "grid.y-number": rows,
        "grid.length": _LENGTH,
        "grid.attach-length": _LENGTH,
        "default.lanenumber": _LANES,
        "default.junctions.type": "traffic_light",
        "tls.yellow.time": YELLOW,
        "no-turnarounds": "true",
        "no-warnings": "true",
        "xml-validation": "never",
        "output-file": path,
    }
    arguments = [f"--{key}={value}" for key, value in options.items()]
    done = subprocess.run([program("netgenerate"), "--grid", *arguments], capture_output=True, text=True)
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise ConfigError(f"SUMO's netgenerate could not make traffic/grid-{rows}x{columns}: {reason}")
    routes_beside(path).write_text(_flows(rows, columns))
    return path


def _flows(rows: int, columns: int) -> str:
    fringe = _fringe(rows, columns)
    flows = [
        f'<flow id="{outside}-{other}" from="{outside}{inside}" to="{last}{other}" begin="0" end="1e6" '
        f'period="exp({_ENTERING / (len(fringe) - 1):.9f})" departLane="best" departSpeed="max"/>'
        for outside, inside in fringe.items()
        for other, last in fringe.items()
        if other != outside
    ]
    return "\n".join(["<routes>", *flows, "</routes>\n"])


def _fringe(rows: int, columns: int) -> dict[str, str]:
    """The junctions around a grid, and to which of the grid each is attached."""
    ends = {f"bottom{column}": (0, column) for column in range(columns)}
    ends |= {f"top{column}": (rows - 1, column) for column in range(columns)}
    ends |= {f"left{row}": (row, 0) for row in range(rows)}
    ends |= {f"right{row}": (row, columns - 1) for row in range(rows)}
    return {name: _name(row, column, columns) for name, (row, column) in ends.items()}


def _name(row: int, column: int, columns: int) -> str:
    """netgenerate's id of a junction of a grid with so many columns."""
    letters = chr(ord("A") + column % 26)
    if columns > 26:
        letters = chr(ord("A") + column // 26) + letters
    return f"{letters}{row}"


def _lanes(row: int, column: int, rows: int, columns: int) -> tuple[str, ...]:
    """The lanes that lead to a junction from the north, east, south and west."""
    name = _name(row, column, columns)
    before = (
        _name(row + 1, column, columns) if row + 1 < rows else f"top{column}",
        _name(row, column + 1, columns) if column + 1 < columns else f"right{row}",
        _name(row - 1, column, columns) if row else f"bottom{column}",
        _name(row, column - 1, columns) if column else f"left{row}",
    )
    return tuple(f"{other}{name}_{lane}" for other in before for lane in range(_LANES))


def program(name: str) -> str:
    """The path of one of SUMO's programs; the package itself is not imported, since that changes the environment."""
    found = importlib.util.find_spec("sumo")
    assert found is not None
    assert found.origin is not None
    return str(Path(found.origin).parent / "bin" / name)
