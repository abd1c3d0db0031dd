"""What installing the project brings, read from its metadata."""

import configparser
import importlib.metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
HEAVY = {
    "jax",
    "jaxlib",
    "flax",
    "jaxmarl",
    "gymnax",
    "mujoco",
    "gymnasium-robotics",
    "smac",
    "smacv2",
    "pysc2",
    "gfootball",
}


def requirements(package: str, extra: str = "") -> list[Requirement]:
    """What the package itself requires here, with an extra or without."""
    declared = map(Requirement, importlib.metadata.requires(package) or [])
    return [one for one in declared if one.marker is None or one.marker.evaluate({"extra": extra})]


def brought_in(package: str) -> set[str]:
    """Everything that installing the package brings, itself included."""
    found: set[str] = set()
    waiting = [(canonicalize_name(package), "")]
    while waiting:
        name, extra = waiting.pop()
        for requirement in requirements(name, extra):
            needed = canonicalize_name(requirement.name)
            waiting += [(needed, also) for also in ["", *requirement.extras] if needed not in found or also]
            found.add(needed)
        found.add(name)
    return found


def test_the_base_install_is_light() -> None:
    brought = brought_in("matrpo")
    assert {"torch", "numpy", "pettingzoo", "gymnasium", "mpe2"} <= brought
    assert not HEAVY & brought


def test_the_tests_bring_every_extra_that_installs_from_pypi() -> None:
    own = [requirement for requirement in requirements("matrpo", "test") if requirement.name == "matrpo"]
    extras = {extra for requirement in own for extra in requirement.extras}
    assert extras >= {"mamujoco", "smax", "vmas", "render", "docs"}


@pytest.mark.parametrize("extra", ["smac", "smacv2"])
def test_smac_is_oxwhirls(extra: str) -> None:
    (game,) = [one for one in requirements("matrpo", extra) if canonicalize_name(one.name) == extra]
    assert game.url == f"git+https://github.com/oxwhirl/{extra}.git"


@pytest.mark.parametrize("extra", ["", "mamujoco", "smax", "vmas", "football", "render", "bench", "docs", "test"])
def test_the_tested_set_pins_what_is_required(extra: str) -> None:
    pins = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in requirements("matrpo", extra):
        if requirement.name != "matrpo":
            pinned = versions.get(canonicalize_name(requirement.name))
            assert pinned is not None, requirement.name
            assert requirement.specifier.contains(pinned), requirement.name


def test_a_wheel_holds_every_package_and_every_file_that_is_no_module() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    data = {name: patterns.split() for name, patterns in settings["options.package_data"].items()}
    packages = {}
    for top in ("topology", "matrpo", "launch", "experiments"):
        for file in (ROOT / top).rglob("__init__.py"):
            parts = file.parent.relative_to(ROOT).parts
            packages[".".join(parts if top == "matrpo" else ("matrpo", *parts))] = file.parent
    assert set(settings["options"]["packages"].split()) == set(packages)
    shipped = {path for name, patterns in data.items() for each in patterns for path in packages[name].glob(each)}
    loose = {path for folder in packages.values() for path in folder.rglob("*.*") if path.is_file()}
    kept = {
        path
        for path in loose
        if path.suffix not in (".py", ".md") and "__pycache__" not in path.parts and "results" not in path.parts
    }
    assert kept == {path for path in shipped if path.is_file()}
