"""The memory of freed arrays: kept for the next ones, and given back when told."""

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import psutil

from matrpo.runs import heap

GLIBC = platform.libc_ver()[0] == "glibc"


def test_free_pieces_of_the_heap_go_back_to_the_system():
    """Arrays that live on lie between those that are gone, so that free would not return them by itself."""
    arrays = [np.ones(2**13) for _ in range(1000)]
    kept = arrays[::10]
    del arrays
    before = psutil.Process().memory_info().rss
    heap.return_free_memory()
    freed = before - psutil.Process().memory_info().rss
    assert freed > 40e6 or not GLIBC
    assert all(array.sum() == len(array) for array in kept)


FAULTS = """
import resource, numpy as np
from matrpo.runs import heap
{}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        [np.ones(2**17) for _ in range(20)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def test_arrays_take_the_memory_of_those_before_them():
    """A page that the system has to clear again is a fault."""
    told, untold = (
        int(subprocess.run([sys.executable, "-c", FAULTS.format(call)], capture_output=True, check=True).stdout)
        for call in ("heap.keep_free_memory()", "")
    )
    assert told < 100 < untold or not GLIBC


def test_a_system_without_glibcs_calls_will_do(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    heap.keep_free_memory()
    heap.return_free_memory()
