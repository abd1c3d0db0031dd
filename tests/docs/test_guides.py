"""The commands and files of the guides, run as they stand: `pytest -n 0 -m slow tests/docs`.

Blocks that say `sh` are run one after another in one folder, and a YAML block that begins with the name of a file
becomes that file. Blocks that say `console` need what is not for a test to have: another machine's installation, its
firewall, systemd, or several terminals.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
WALKED = ("quick-start", "failure-scripts", "experiments")
OTHERS = {
    "own-task": "tests/envs/test_task_file.py",
    "own-algorithm": "tests/algorithms/test_own_algorithm.py",
    "separate-machines": "below",
}
"""Guides with blocks that are run elsewhere."""

SSH = """#!/bin/bash
# The other machine is this one: its files are in another folder.
while [[ $1 == -* ]]; do
    [ "$1" = -o ] && shift
    shift
done
host=$1; shift
[ "$host" = 127.0.0.2 ] && exec bash -c "${*//"$HERE"/$THERE}"
exec bash -c "$*"
"""


def blocks(page: Path) -> list[tuple[str, str]]:
    """The kind and the text of every fenced block."""
    return BLOCK.findall(page.read_text())


def guide(name: str) -> Path:
    return ROOT / "docs" / f"{name}.md"


def run(script: str, folder: Path, **environment: str) -> None:
    """Run a block in a shell, with the folder's own programs before those that are installed."""
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


def test_no_block_is_left_out() -> None:
    pages = {page.stem: {kind for kind, _ in blocks(page)} for page in (ROOT / "docs").glob("*.md")}
    with_code = {name for name, kinds in pages.items() if kinds & {"sh", "python", "yaml"}}
    assert with_code == set(WALKED) | set(OTHERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", WALKED)
def test_a_guide_is_walked_through(name: str, tmp_path: Path) -> None:
    for kind, text in blocks(guide(name)):
        if kind == "yaml":
            title = re.match(r"# (\S+\.yaml)", text)
            assert title, text
            (tmp_path / title[1]).write_text(text)
        elif kind == "sh":
            run(text, tmp_path)


@pytest.mark.slow
def test_the_guide_to_separate_machines_is_walked_through(tmp_path: Path) -> None:
    """Two machines are two loopback addresses and two folders."""
    here, there = tmp_path / "here" / "run", tmp_path / "there" / "run"
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    places = {"/opt/matrpo/bin/": "", "10.0.0.": "127.0.0.", "/var/lib/matrpo/run": str(here)}
    for kind, text in blocks(guide("separate-machines")):
        if kind == "sh":
            for place, local in places.items():
                text = text.replace(place, local)
            run(text, tmp_path, HERE=str(here), THERE=str(there))
    assert len(list(there.glob("agents/0[23]/checkpoint-*.safetensors"))) == 2


def test_the_readme_s_script_runs(tmp_path: Path) -> None:
    (script,) = [text for kind, text in blocks(ROOT / "README.md") if kind == "python"]
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "EvaluationResult" in done.stdout
