#!/bin/bash
# libsumo 1.28.0: a phase made with its duration alone is skipped by an actuated program: a yellow of 3 seconds lasts 0.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check eclipse-sumo==1.28.0 libsumo==1.28.0

cat <<'TEXT'
Source: `trafficlight.Phase(duration, state, minDur, maxDur, ...)` of libsumo, whose last arguments are optional. In a
program that is loaded from a file, a yellow phase that has a duration alone lasts as long as that, under actuated control as well.
Expected: the same of a phase that is made with its duration alone: 3 seconds of yellow between two greens.
Seen: under static control it lasts 3 seconds, under actuated control none: one green follows the other at once, without
an error or a warning. Its minDur and maxDur have become -2^30. With minDur and maxDur given it lasts 3 seconds. Without
yellow nothing is lost between two greens, which makes actuated control look better than it is.
TEXT
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import libsumo
import sumo

folder = Path(sys.argv[1])
network, routes = folder / "junction.net.xml", folder / "nobody.rou.xml"
netgenerate = Path(sumo.SUMO_HOME) / "bin" / "netgenerate"
options = ["--grid", "--grid.number=1", "--grid.attach-length=200", "--default.junctions.type=traffic_light"]
subprocess.run([netgenerate, *options, f"--output-file={network}"], check=True, stdout=subprocess.DEVNULL)
routes.write_text("<routes/>")
STATIC, ACTUATED = 0, 3


def yellow(kind, *limits):
    """Seconds of yellow between the first two greens of 5 seconds, on an empty road."""
    libsumo.start(["sumo", "-n", str(network), "-r", str(routes), "--no-step-log", "--no-warnings"])
    control = libsumo.trafficlight
    light = control.getIDList()[0]
    phases = [
        control.Phase(5, phase.state, 5, 50) if "G" in phase.state else control.Phase(3, phase.state, *limits)
        for phase in control.getAllProgramLogics(light)[0].phases
    ]
    control.setProgramLogic(light, control.Logic("new", kind, 0, phases))
    states = []
    for _ in range(12):
        libsumo.simulationStep()
        states.append(control.getRedYellowGreenState(light))
    libsumo.close()
    return sum("y" in state for state in states)


static, by_default, given = yellow(STATIC), yellow(ACTUATED), yellow(ACTUATED, 3, 3)
print(f"libsumo {version('libsumo')}: seconds of yellow in the first 12, of phases of 3 seconds:")
print(f"static {static}; actuated {by_default}; actuated, minDur and maxDur given {given}")
seen = (static, by_default, given) == (3, 0, 3)
print("seen as described" if seen else "no longer as described")
sys.exit(0 if seen else 1)
PYTHON
