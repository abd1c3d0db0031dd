"""Imports of optional dependencies (extras) that only some tasks need."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matrpo.errors import ConfigError


def import_extra(module: str, extra: str) -> Any:
    """Import a module of an optional package, discarding what it prints.

    Args:
        module: its full name.
        extra: of this project, which installs it; tasks that need it are named `extra/...`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        with _silence():
            return importlib.import_module(module)
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"tasks of {extra}/ need the extra {extra!r} ({reason}): run pip install 'matrpo[{extra}]'"
        ) from None


@contextmanager
def _silence() -> Iterator[None]:
    """Discard Python's output, even if what is imported puts `sys.__stdout__` back, as jaxmarl does."""
    names = ("stdout", "stderr", "__stdout__", "__stderr__")
    before = {name: getattr(sys, name) for name in names}
    try:
        for name in names:
            setattr(sys, name, io.StringIO())
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)
