"""The heap of a process that learns: free pages kept while a phase needs them again, and given back between phases."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's `mallopt` parameters."""

_LARGEST_IN_HEAP = 32 << 20
"""Bytes of the largest array that glibc can be told to take from the heap."""

_KEPT = 1 << 30
"""Free bytes at the heap's end that are kept."""


def keep_free_memory() -> None:
    """Have malloc keep the memory of freed arrays for the next ones.

    By itself it returns the pages of each large array to the system, which has to clear them again for the next: that
    takes longer than the arithmetic on them. Only glibc is known to need to be told; elsewhere, nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
        mallopt(_TRIM_THRESHOLD, _KEPT)


def return_free_memory() -> None:
    """Give the heap's free pages back to the system, for one phase to have room where another had it.

    malloc keeps what is free between arrays that live on. Only glibc is known to need to be told; elsewhere, nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
