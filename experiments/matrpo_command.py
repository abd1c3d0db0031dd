"""The command line that starts `matrpo` as a process of its own."""

import sys

MATRPO = (sys.executable, "-c", "from matrpo.launch.cli import main; main()")
"""The program `matrpo` of this interpreter, whatever else is on the path."""
