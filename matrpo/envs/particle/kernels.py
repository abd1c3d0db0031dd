"""Which implementation of the loops of particle worlds steps them.

Each set of loops is two modules of the same functions, which write the same bits: `..._numpy.py` is the reference,
which says what they do, and `..._compiled.py` is machine code by numba. NumPy needs some thirty calls where that needs
one, and their overhead is most of the time that a step of a few environments takes.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType


def load(name: str) -> ModuleType:
    """The loops called `name`, compiled; the reference if `NUMBA_DISABLE_JIT` tells numba not to compile.

    It is called where environments are built: numba takes a second to import, and a hundred megabytes, of which
    those who only ask for a task's spaces have no need.
    """
    compiled = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")
    return import_module(f"matrpo.envs.particle.{name}_{'compiled' if compiled else 'numpy'}")
