"""Which room may import which: the ordered list of rooms, and what may stand outside of them."""

import ast
from pathlib import Path

import networkx
import pytest

import matrpo

ROOT = Path(__file__).parent.parent
assert Path(matrpo.__file__).is_relative_to(ROOT), "the tests are of another copy than the installed one"

ROOMS = (
    "topology",
    "matrpo/errors.py",
    "matrpo/spaces.py",
    "matrpo/version.py",
    "matrpo/random_streams.py",
    "matrpo/standard_streams.py",
    "matrpo/settings",
    "matrpo/networks",
    "matrpo/envs",
    "matrpo/sampling",
    "matrpo/trust_region",
    "matrpo/consensus",
    "matrpo/runs",
    "matrpo/faults",
    "matrpo/decentralized",
    "matrpo/simulation",
    "matrpo/algorithms",
    "matrpo",
    "launch/cluster",
    "launch/wire",
    "launch/processes",
    "launch/engines",
    "launch/screen",
    "launch/tracking",
    "launch/commands",
    "launch",
    "experiments/matrpo_command.py",
    "experiments/planning",
    "experiments/bench",
    "experiments/pages",
    "experiments/runs",
)
"""The rooms, lowest first: a room imports only from those before it. Folders in a room are part of it."""

ROOF = {"build.py", "config.py", "evaluation.py", "film.py", "run_directory.py", "training.py"}
"""The files of `matrpo/` above its rooms; `config.py` and `run_directory.py` are where users' code imports from."""


def modules() -> dict[str, Path]:
    """Every module of the project and its file."""
    found = {}
    for folder in ("topology", "matrpo", "launch", "experiments"):
        for file in (ROOT / folder).rglob("*.py"):
            parts = file.relative_to(ROOT / "matrpo" if folder == "matrpo" else ROOT).with_suffix("").parts
            found[".".join(("matrpo", *parts)).removesuffix(".__init__")] = file
    return found


def room(file: Path) -> str:
    """The room of a file: itself, or the innermost folder that is one. The packages' own files are of the floor."""
    path = file.relative_to(ROOT)
    if path.name == "__init__.py" and str(path.parent) in ("matrpo", "launch", "experiments"):
        return "matrpo/version.py"
    return next(str(place) for place in (path, *path.parents) if str(place) in ROOMS)


def imports() -> networkx.DiGraph:
    """Which module imports which, wherever in its file it does so."""
    files = modules()
    graph = networkx.DiGraph()
    for name, file in files.items():
        graph.add_node(name, room=ROOMS.index(room(file)))
    for name, file in files.items():
        for statement in ast.walk(ast.parse(file.read_text())):
            for target in _targets(statement, files):
                graph.add_edge(name, target)
    return graph


def _targets(statement: ast.AST, files: dict[str, Path]) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names if alias.name in files]
    if not isinstance(statement, ast.ImportFrom) or statement.module not in files:
        return []
    inner = {f"{statement.module}.{alias.name}" for alias in statement.names}
    return sorted(inner & set(files)) or [statement.module]


GRAPH = imports()


def test_no_two_modules_import_one_another() -> None:
    assert not list(networkx.simple_cycles(GRAPH))


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_only_from_those_before_it(name: str) -> None:
    rooms = GRAPH.nodes(data="room")
    wrong = [(one, other) for one, other in GRAPH.edges if ROOMS[rooms[one]] == name and rooms[other] > rooms[one]]
    assert ROOMS.index(name) in {number for _, number in rooms}
    assert not wrong


def test_nothing_stands_outside_of_the_rooms() -> None:
    files = {file.name for file in (ROOT / "matrpo").glob("*.py")}
    single = {room.removeprefix("matrpo/") for room in ROOMS if room.startswith("matrpo/") and room.endswith(".py")}
    assert files == ROOF | {"__init__.py"} | single
    assert {file.name for file in (ROOT / "launch").glob("*.py")} == {"__init__.py", "cli.py", "warm_parent.py"}
    assert {file.name for file in (ROOT / "experiments").glob("*.py")} == {"__init__.py", "matrpo_command.py"}


def test_the_map_for_newcomers_is_the_list_of_rooms() -> None:
    table = [
        line.split("|")[1].strip(" `") for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if "|" in line
    ]
    listed = [name.rstrip("/") for name in table if name.rstrip("/") in ROOMS]
    assert listed == list(ROOMS)
