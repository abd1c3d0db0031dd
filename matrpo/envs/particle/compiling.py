"""Compiles the loops of particle worlds to machine code, with numba, which only what steps a world imports."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numba
from llvmlite import binding

_LOG = logging.getLogger(__name__)
_Function = TypeVar("_Function", bound=Callable[..., object])


def compiled(signature: str) -> Callable[[_Function], _Function]:
    """Compile a function for one signature of numba's, now, when its module is imported.

    Its float64 arithmetic is that of NumPy, to the bit: nothing is reordered, fused or approximated. Of the
    mathematical library it may call the square root alone, which is rounded alike everywhere.

    The machine code is kept in `__pycache__`, or else in the user's cache folder. Where neither can be written, or
    what is there cannot be read, the function is compiled anew in every process.
    """

    def decorate(function: _Function) -> _Function:
        # numba writes an index before the code that it points to: if it is killed in between, the new index has old
        # code for good. Under a name of its own for each source, CPU and numba there is no old code.
        function.__qualname__ += _IDENTITY
        try:
            return _compile(function, signature, cache=True)
        except Exception as error:  # whatever comes of reading, unpickling or writing the cache
            _LOG.debug("the machine code of %s is not kept: %s", function.__name__, error)
            return _compile(function, signature, cache=False)

    return decorate


def inlined(function: _Function) -> _Function:
    """Let compiled functions call this one, as part of their own machine code."""
    made: _Function = numba.njit(error_model="numpy")(function)
    return made


def _compile(function: _Function, signature: str, cache: bool) -> _Function:
    made: _Function = numba.njit(signature, cache=cache, error_model="numpy")(function)
    return made


def _identity() -> str:
    """Names this folder's source, from which constants are compiled in, the CPU and numba's version."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    features = binding.get_host_cpu_features().flatten()
    digest.update(f"{binding.get_host_cpu_name()} {features} {numba.__version__}".encode())
    return "_" + digest.hexdigest()[:16]


_IDENTITY = _identity()
