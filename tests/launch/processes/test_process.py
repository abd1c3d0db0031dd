"""What every process of a run does around its work."""

import platform
import subprocess
import sys

import numpy as np
import psutil

from matrpo.launch.processes.process import return_free_memory


def test_free_pieces_of_the_heap_go_back_to_the_system():
    """Arrays that live on lie between those that are gone, so that free would not return them by itself."""
    arrays = [np.ones(2**13) for _ in range(1000)]
    kept = arrays[::10]
    del arrays
    before = psutil.Process().memory_info().rss
    return_free_memory()
    freed = before - psutil.Process().memory_info().rss
    assert freed > 40e6 or platform.libc_ver()[0] != "glibc"
    assert all(array.sum() == len(array) for array in kept)


def test_a_launch_is_timed_from_where_it_is_one():
    """Not from the start of the shell whose place it took."""
    code = "import time; from matrpo import launch; print(time.time() - launch.STARTED_AT)"
    shell = ["sh", "-c", 'sleep 1; exec "$0" -c "$1"', sys.executable, code]
    assert 0 <= float(subprocess.run(shell, capture_output=True, text=True, check=True).stdout) < 1
