"""A network of SUMO whose junctions differ, and raw libsumo, for tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from matrpo.envs.traffic.grid import program

ROUTES = """<routes>
<flow id="a" from="A0A1" to="C1C0" begin="0" end="1e6" period="exp(0.2)"/>
<flow id="b" from="C0C1" to="B0A0" begin="0" end="1e6" period="exp(0.2)"/>
</routes>
"""


def write_differing(folder: Path) -> Path:
    """Two rows of three junctions without roads out: those at the corners have one green phase, those between two."""
    path = folder / "town.net.xml"
    sides = ["--grid.x-number=3", "--grid.y-number=2", "--grid.length=100", "--default.junctions.type=traffic_light"]
    options = ["--no-turnarounds", "--no-warnings", "--xml-validation=never", f"--output-file={path}"]
    subprocess.run([program("netgenerate"), "--grid", *sides, *options], check=True, capture_output=True)
    path.with_name("town.rou.xml").write_text(ROUTES)
    return path
