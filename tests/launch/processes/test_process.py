"""What every process of a run does around its work."""

import subprocess
import sys


def test_a_launch_is_timed_from_where_it_is_one():
    """Not from the start of the shell whose place it took."""
    code = "import time; from matrpo import launch; print(time.time() - launch.STARTED_AT)"
    shell = ["sh", "-c", 'sleep 1; exec "$0" -c "$1"', sys.executable, code]
    assert 0 <= float(subprocess.run(shell, capture_output=True, text=True, check=True).stdout) < 1
