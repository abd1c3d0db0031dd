"""The commands and files of the guides, run as they stand: `pytest -n 0 -m slow tests/docs`.

Blocks that say `sh` are run one after another in one folder, and a YAML block that begins with the name of a file
becomes that file.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from guides import ROOT, blocks, guide, run

WALKED = ("quick-start", "failure-scripts", "experiments", "other-engines", "planning", "traffic-lights", "vmas")
COMPILED = ("football",)
"""Guides to what has to be compiled, walked where it is installed."""
OTHERS = {
    "own-task": "tests/envs/wrapped/test_task_file.py",
    "own-algorithm": "tests/algorithms/test_own_algorithm.py",
    "separate-machines": "tests/docs/test_separate_machines.py",
}
"""Guides with blocks that are run elsewhere."""

needs_gfootball = pytest.mark.skipif(find_spec("gfootball_engine") is None, reason="gfootball is not installed")


def test_no_block_is_left_out() -> None:
    pages = {page.stem: {kind for kind, _ in blocks(page)} for page in (ROOT / "docs").glob("*.md")}
    assert set.union(*pages.values()) <= {"sh", "python", "yaml"}
    with_code = {name for name, kinds in pages.items() if kinds & {"sh", "python", "yaml"}}
    assert with_code == {*WALKED, *COMPILED, *OTHERS}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*WALKED, *(pytest.param(name, marks=needs_gfootball) for name in COMPILED)])
def test_a_guide_is_walked_through(name: str, tmp_path: Path) -> None:
    for kind, text in blocks(guide(name)):
        if kind == "yaml":
            title = re.match(r"# (\S+\.yaml)", text)
            assert title, text
            (tmp_path / title[1]).write_text(text)
        elif kind == "sh":
            run(text, tmp_path)


def test_the_readme_s_script_runs(tmp_path: Path) -> None:
    (script,) = [text for kind, text in blocks(ROOT / "README.md") if kind == "python"]
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "EvaluationResult" in done.stdout
