"""Imports users' Python files, which define tasks and algorithms of their own.

A file is imported once in each process. Its folder is put at the end of the import path, so that it may import what
lies beside it.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from matrpo.errors import ConfigError, in_words


@dataclass(frozen=True)
class UserFile:
    """A reference `path/to/file.py:name` to a user's function or class.

    Attributes:
        key: the setting that holds it, for errors.
        path: the file, absolute.
        name: the object to import from it.
    """

    key: str
    path: Path
    name: str

    @classmethod
    def parse(cls, key: str, text: str, what: str, example: str) -> UserFile:
        """Parse a setting `path/to/file.py:name`.

        Args:
            key: the setting that holds it.
            text: the setting's value.
            what, example: what to name behind the colon, and an example of it.

        Raises:
            ConfigError: there is nothing behind the file.
        """
        path, _, name = text.rpartition(":")
        if not path:
            raise ConfigError(f"{key} {name!r}: name the {what} too, as in {name}:{example}")
        return cls(key, Path(path).resolve(), name)

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"

    def load(self, what: str) -> Any:
        """Import the file and return the named object.

        Args:
            what: kind of that object, for errors.

        Raises:
            ConfigError: the file is missing or cannot be imported, or has nothing that can be called by the name.
        """
        found = getattr(self._module(), self.name, None)
        if not callable(found):
            raise ConfigError(f"{self.key} '{self}': the file has no {what} {self.name!r}")
        return found

    @contextmanager
    def blamed(self, action: str) -> Iterator[None]:
        """Convert an exception inside the block to a `ConfigError` that names the action and the line of the file."""
        try:
            yield
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{self.key} '{self}': {action} raised {in_words(error)}{self._line(error)}") from error

    def _module(self) -> ModuleType:
        name = f"matrpo user file {self.path}"
        if name in sys.modules:
            return sys.modules[name]
        if not self.path.is_file():
            raise ConfigError(f"{self.key}: there is no file {self.path}")
        spec = spec_from_file_location(name, self.path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        if str(self.path.parent) not in sys.path:
            sys.path.append(str(self.path.parent))
        sys.modules[name] = module
        try:
            with self.blamed("importing the file"):
                spec.loader.exec_module(module)
        except ConfigError:
            del sys.modules[name]
            raise
        return module

    def _line(self, error: BaseException) -> str:
        """The line of the file that raised an exception."""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(self.path)]
        return f" (line {lines[-1]})" if lines else ""
