"""Atomic file writes: no reader sees half a file; crash-safe ones survive a power cut too."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matrpo.errors import ConfigError

_LOG = logging.getLogger(__name__)


class StorageError(RuntimeError):
    """A file of the run could not be written. One line that names the file and the reason."""


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Convert operating-system errors inside the block to a `StorageError` that names `path`.

    Raises:
        StorageError: the disk is full or read-only.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def replaced_when_complete(path: Path) -> Iterator[Path]:
    """Atomic replacement of `path`: yields a temporary name to write to, renamed afterwards, deleted on failure.

    Nobody sees half of the file, but a power cut may leave it empty.

    Raises:
        OSError: the file cannot be written.
    """
    draft = path.with_name(f".{path.name}.tmp")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_crash_safely(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file so that `path` holds either the old content or all of `data`, even after a power cut.

    Args:
        path: the file.
        data: all of its content.
        mode: who may read and write it, less what the umask forbids.

    Raises:
        StorageError: the disk is full or read-only.
    """
    with storing(path), replaced_when_complete(path) as draft:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        with open(draft, "wb", opener=lambda name, flags: os.open(name, flags | os.O_EXCL, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def locked(folder: Path, refusal: str) -> Iterator[None]:
    """Lock a folder against all other processes that lock it. The system releases the lock with this process.

    On a file system without locks there is none.

    Args:
        folder: it exists.
        refusal: what to say if it is locked.

    Raises:
        ConfigError: another process has locked it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(refusal) from None
        except OSError as error:
            _LOG.warning("cannot lock %s: %s", folder, error.strerror)
        yield
    finally:
        os.close(handle)
