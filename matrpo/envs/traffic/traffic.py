"""The family of tasks `traffic/...`: grids of junctions, and the user's own networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from matrpo.envs.family import Family, KnownTask, fixed_task, packages
from matrpo.envs.traffic.grid import grid_network, parse_grid, write_grid
from matrpo.envs.traffic.network import read_network, routes_beside, traffic_spec
from matrpo.envs.traffic.traffic_env import TrafficEnv
from matrpo.envs.vector_env import VectorEnv
from matrpo.errors import ConfigError
from matrpo.spaces import TaskSpec

_PREFIX = "traffic/"
_FOLDER = "matrpo-traffic-"
_LISTED = ("grid-2x2", "grid-4x4")


def _search(name: str) -> KnownTask:
    """The task of a grid, or of a user's network; its name has the file's absolute path then."""
    place = name.removeprefix(_PREFIX)
    if sides := parse_grid(place):
        return _grid(*sides)
    if not place.endswith(".net.xml"):
        raise ConfigError(f"unknown task {name!r} for 'task': expected {FAMILY.pattern}")
    path = Path(place).resolve()
    if "," in str(path):
        raise ConfigError(f"task {name!r}: SUMO takes the comma in {path} for the end of a file's name")
    for file, what in ((path, "network"), (routes_beside(path), "routes of the network")):
        if not file.is_file():
            raise ConfigError(f"task {name!r}: there is no file {file} with the {what}")
    spec = traffic_spec(f"{_PREFIX}{path}", read_network(path))
    return _task(spec, "a network of your own", lambda _name, num_envs, seed: TrafficEnv(spec, path, num_envs, seed))


def _grid(rows: int, columns: int) -> KnownTask:
    spec = traffic_spec(f"{_PREFIX}grid-{rows}x{columns}", grid_network(rows, columns))
    description = f"the lights of {rows} x {columns} junctions in SUMO let random traffic through"
    return _task(spec, description, partial(_make_grid, rows, columns, spec))


def _task(spec: TaskSpec, description: str, build: Callable[[str, int, int], VectorEnv]) -> KnownTask:
    return dataclasses.replace(fixed_task(spec, description, build), own_process=True)


def _make_grid(rows: int, columns: int, spec: TaskSpec, _name: str, num_envs: int, seed: int) -> VectorEnv:
    folder = TemporaryDirectory(prefix=_FOLDER)
    try:
        return TrafficEnv(spec, write_grid(rows, columns, Path(folder.name)), num_envs, seed, folder)
    except Exception:
        folder.cleanup()
        raise


@contextmanager
def network_file(task: str) -> Iterator[Path]:
    """The path of a task's network, beside which its routes lie; a grid's is gone afterwards.

    Raises:
        ConfigError: there is no such task.
    """
    place = _search(task).name.removeprefix(_PREFIX)
    if not (sides := parse_grid(place)):
        yield Path(place)
        return
    with TemporaryDirectory(prefix=_FOLDER) as folder:
        yield write_grid(*sides, Path(folder))


FAMILY = Family(
    pattern=f"{_PREFIX}grid-<R>x<C>, {_PREFIX}path/to/<name>.net.xml",
    description="traffic lights in SUMO",
    needs=packages("matrpo[traffic]", "sumo", "libsumo"),
    tasks=tuple(_grid(*sides) for sides in map(parse_grid, _LISTED) if sides),
    search=_search,
)
