"""Temporary folders of one process, whose locks say whether it lives: what is left of killed ones is removed later."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from matrpo.errors import ConfigError

_PREFIX = "matrpo-"
_LOCK = "lock"

_LONGEST_PARENT = 68
"""Bytes of the path of a folder in which `TemporaryFolder` may hold sockets of names of 17 bytes: a socket's path has
103 at most on macOS, and a few more elsewhere."""


class TemporaryFolder:
    """A new folder that this process alone may look into, locked until it ends.

    Those of processes of this user that ended without `remove` are removed first.

    Args:
        parent: where to make it.

    Attributes:
        path: the folder.
    """

    def __init__(self, parent: Path) -> None:
        for other in parent.glob(f"{_PREFIX}*"):
            remove_if_dead(other)
        self.path, self._lock = _made_and_locked(parent)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def remove_if_dead(folder: Path) -> None:
    """Remove a `TemporaryFolder` of this user if the process that made it is gone."""
    with contextlib.suppress(OSError):  # there is none, it is another's, or locked
        if folder.lstat().st_uid != os.getuid():
            return
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def parent_for_sockets() -> Path:
    """A folder for a `TemporaryFolder` with sockets: the system's for temporary files, unless its path is too long.

    Raises:
        ConfigError: there is none.
    """
    folders = ["/tmp", "/var/tmp"]
    with contextlib.suppress(OSError):  # no usable one at all
        folders.insert(0, tempfile.gettempdir())
    for folder in folders:
        if len(os.fsencode(folder)) <= _LONGEST_PARENT and os.access(folder, os.W_OK | os.X_OK):
            return Path(folder)
    raise ConfigError(
        f"no folder for sockets: expected TMPDIR to be one with a path of at most {_LONGEST_PARENT} bytes, or /tmp"
    )


def _made_and_locked(parent: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path, lock
        os.close(lock)  # somebody took it for a dead process's before it was locked
