"""Which module may import which."""

import ast
from pathlib import Path

import networkx
import pytest

import matrpo

FOLDERS = ("topology", "matrpo", "launch", "experiments")
ROOT = Path(__file__).parent.parent
assert Path(matrpo.__file__).is_relative_to(ROOT), "the tests are of another copy than the installed one"


def modules() -> dict[str, Path]:
    """Every module of the project and its file."""
    found = {}
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            parts = file.relative_to(ROOT / "matrpo" if folder == "matrpo" else ROOT).with_suffix("").parts
            found[".".join(("matrpo", *parts)).removesuffix(".__init__")] = file
    return found


def imports() -> networkx.DiGraph:
    """Which module imports which, wherever in its file it does so."""
    files = modules()
    graph = networkx.DiGraph()
    for name, file in files.items():
        graph.add_node(name, folder=file.relative_to(ROOT).parts[0])
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


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_from_those_below_it(folder: str) -> None:
    below = FOLDERS[: FOLDERS.index(folder) + 1]
    folders = GRAPH.nodes(data="folder")
    wrong = [(one, other) for one, other in GRAPH.edges if folders[one] == folder and folders[other] not in below]
    assert folder in dict(folders).values()
    assert not wrong


def test_settings_and_the_run_directory_know_no_algorithm() -> None:
    for low in ("matrpo.settings.config", "matrpo.runs.run_directory"):
        assert not [name for name in networkx.descendants(GRAPH, low) if name.startswith("matrpo.algorithms")]
