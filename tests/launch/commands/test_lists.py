"""What `matrpo list` and `matrpo doctor` say of tasks and what they need."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from running import Matrpo, assert_mistake

from matrpo.topology import TOPOLOGIES

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize("what", ["tasks", "algorithms", "topologies"])
def test_lists_are_json(matrpo: Matrpo, what: str) -> None:
    status, out, err = matrpo("list", what, "--json")
    assert (status, err) == (0, "")
    names = [entry["name"] for entry in json.loads(out)]
    assert {"tasks": "navigation", "algorithms": "matrpo", "topologies": "ring"}[what] in names
    if what == "topologies":
        assert names == list(TOPOLOGIES)
    status, out, _ = matrpo("list", what)
    assert all(any(line.startswith(name) for line in out.splitlines()) for name in names)


def test_a_list_of_tasks_says_what_each_is_and_needs(matrpo: Matrpo) -> None:
    entries = {entry["name"]: entry for entry in json.loads(matrpo("list", "tasks", "--json")[1])}
    entry = entries["mpe2/simple_speaker_listener_v4"]
    assert (entry["default_agents"], entry["fixed"], entry["episode_length"]) == (2, True, 25)
    assert entry["observation_sizes"] == [3, 11]
    assert entry["action_spaces"] == ["Discrete(3)", "Discrete(5)"]
    assert (entry["needs"], entry["installed"], entry["problem"]) == ("nothing", True, None)
    ant = entries["mamujoco/Ant-4x2"]
    assert (ant["needs"], ant["installed"], ant["problem"]) == ("matrpo[mamujoco]", True, None)
    lines = {line.split()[0]: line for line in matrpo("list", "tasks")[1].splitlines() if line}
    line = lines["mpe2/simple_speaker_listener_v4"]
    assert line.endswith(f"  {entry['description']}")
    assert "  Discrete(3), Discrete(5)  " in line
    assert "  nothing  " in line
    assert "  matrpo[mamujoco]: installed  " in lines["mamujoco/Ant-4x2"]
    assert "12 or other" in lines["navigation"]
    assert "pettingzoo/<module>:<name>" in lines
    assert "path/to/file.py:factory" in lines


def test_a_list_of_tasks_says_what_to_install(matrpo: Matrpo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    entries = {entry["name"]: entry for entry in json.loads(matrpo("list", "tasks", "--json")[1])}
    assert not entries["mamujoco/Ant-4x2"]["installed"]
    assert entries["smax/2s3z"]["installed"]
    lines = {line.split()[0]: line for line in matrpo("list", "tasks")[1].splitlines() if line}
    assert "matrpo[mamujoco]: not installed" in lines["mamujoco/Ant-4x2"]
    problem = "not installed: mujoco; pip install 'matrpo[mamujoco]'"
    assert lines["mamujoco/<Robot>-<partition>"].endswith(f"  {problem}")
    assert_mistake(matrpo("launch", "--task", "mamujoco/Ant-4x2"), problem)


SMAC_STAGES = {
    "another smac": ({"facade": ""}, "AutoML's optimiser, not the StarCraft Multi-Agent Challenge: run pip uninstall"),
    "the package alone": ({"env/starcraft2": ""}, "StarCraft II is not in "),
    "no maps": ({"env/starcraft2": "", "Versions/Base75689": "SC2_x64"}, "SMAC's maps are not in "),
    "all": ({"env/starcraft2": "", "Versions/Base75689": "SC2_x64", "Maps/SMAC_Maps": ""}, None),
}
"""Folders, each with a file in it if one is named: those of the package `smac`, and StarCraft II's."""


@pytest.mark.parametrize("stage", SMAC_STAGES)
def test_smac_is_usable_with_the_right_package_the_game_and_its_maps(
    matrpo: Matrpo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: str
) -> None:
    folders, problem = SMAC_STAGES[stage]
    for folder, file in {"": "__init__.py", **folders}.items():
        path = tmp_path / "smac" / folder
        path.mkdir(parents=True, exist_ok=True)
        if file:
            (path / file).touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SC2PATH", str(tmp_path / "smac"))
    entries = {entry["name"]: entry for entry in json.loads(matrpo("list", "tasks", "--json")[1])}
    lines, report = matrpo("list", "tasks")[1].splitlines(), matrpo("doctor")[2].splitlines()
    if problem is None:
        assert (entries["smac/MMM2"]["installed"], entries["smac/MMM2"]["problem"]) == (True, None)
        assert any(line.startswith("ok   tasks smac/<map>: ") for line in report)
        return
    assert problem in entries["smac/MMM2"]["problem"]
    assert sum(problem in line for line in lines) == 1
    assert [line.startswith("note tasks smac/<map>: ") for line in report if problem in line] == [True]
    assert_mistake(matrpo("launch", "--task", "smac/MMM2"), "task 'smac/MMM2': ", problem)


def test_the_doctor_says_which_tasks_can_be_run(matrpo: Matrpo, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _, err = matrpo("doctor")
    assert status == 0
    assert "ok   tasks navigation" in err
    assert "ok   tasks mpe2/<environment>" in err
    assert "cores; an agent computes with 1 thread" in err
    assert "mpe2 1." in err.splitlines()[0]
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    assert "note tasks smax/<map>: not installed: jaxmarl; pip install 'matrpo[smax]'" in matrpo("doctor")[2]
