"""`matrpo check-task`: a line a finding, and a status by the worst of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import Matrpo


def test_a_good_task_has_status_0(matrpo: Matrpo) -> None:
    status, out, err = matrpo("check-task", "navigation", "--agents", 3, "--steps", 100)
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "ok   3 agents: agent_0, agent_1, agent_2"
    assert all(line.startswith("ok   ") for line in out.splitlines())


def test_warnings_are_status_1(matrpo: Matrpo) -> None:
    status, out, err = matrpo("check-task", "pettingzoo/pettingzoo.sisl.pursuit_v5:parallel_env", "--steps", 3)
    assert (status, err) == (1, "")
    assert "warn no episode ended in 3 random steps" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["navigatoin"], "unknown task 'navigatoin' for 'task': did you mean 'navigation'?"),
        (["mpe2/simple_reference_v3", "--agents", 5], "bad value 5 for 'agents'"),
        (["nowhere.py:make"], "nowhere.py"),
    ],
)
def test_what_cannot_be_trained_on_is_one_line_with_status_2(
    arguments: list[object], words: str, matrpo: Matrpo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = matrpo("check-task", *arguments)
    assert (status, err) == (2, "")
    [line] = out.splitlines()
    assert line.startswith("bad  ")
    assert words in line
