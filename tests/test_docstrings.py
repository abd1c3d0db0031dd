"""Every public method says what it does, unless it overrides one that does."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLASSES = [
    node
    for folder in ("topology", "matrpo", "launch", "experiments")
    for file in sorted((ROOT / folder).rglob("*.py"))
    for node in ast.walk(ast.parse(file.read_text()))
    if isinstance(node, ast.ClassDef)
]


def methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [part for part in node.body if isinstance(part, ast.FunctionDef)]


def bases(node: ast.ClassDef) -> set[str]:
    return {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases}


def is_documented(node: ast.ClassDef, name: str) -> bool:
    """Whether the method has a docstring, in the class or in one that it derives from."""
    if any(method.name == name and ast.get_docstring(method) for method in methods(node)):
        return True
    return any(is_documented(other, name) for other in CLASSES if other.name in bases(node) and other is not node)


def test_public_methods_are_documented_where_they_are_first_defined() -> None:
    bare = [
        f"{node.name}.{method.name}"
        for node in CLASSES
        for method in methods(node)
        if not node.name.startswith("_") and not method.name.startswith("_") and not is_documented(node, method.name)
    ]
    assert not bare
