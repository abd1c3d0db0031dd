"""The fenced blocks of the documentation, and a shell to run them in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


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
