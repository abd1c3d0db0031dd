"""What commands import before they have anything to do."""

from __future__ import annotations

import subprocess
import sys


def test_neither_the_launcher_nor_the_environment_server_imports_torch() -> None:
    processes = [f"processes.{name}" for name in ("supervisor", "children", "env_server")]
    modules = ["cli", "commands.launch", "commands.read", "screen.screen", *processes]
    imports = ", ".join(f"matrpo.launch.{name}" for name in modules)
    script = f"import sys, {imports}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_help_imports_nothing_that_takes_long() -> None:
    help_page = "import contextlib, sys; from matrpo.launch import cli; sys.argv = ['matrpo', '--help']\n"
    slow = "print({'torch', 'scipy', 'matplotlib', 'numba'} & {*sys.modules})"
    script = f"{help_page}with contextlib.suppress(SystemExit): cli.main()\n{slow}"
    done = subprocess.run([sys.executable, "-c", script], check=True, timeout=60, capture_output=True, text=True)
    assert "clipping-figure" in done.stdout
    assert done.stdout.endswith("set()\n")
