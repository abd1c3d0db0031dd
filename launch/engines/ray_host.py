"""The Ray actor: it runs one process of a run in a folder of its own, and reports status and files to the launcher.

The process is a child of the actor and ends when that does, however it does. Ray carries its files, never its messages.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matrpo.launch.processes.temporary_folder import TemporaryFolder
from matrpo.runs.storage import write_crash_safely

_GRACE = 10.0
"""Grace period of the process to save its state, in seconds, before it is killed."""

_PRIVATE = "keys/"


@dataclass(frozen=True)
class Place:
    """The network address of a Ray actor.

    Attributes:
        life: differs from that of the actor's other lives.
        host: the node's address.
        port: nobody listens there now.
    """

    life: str
    host: str
    port: int


@dataclass(frozen=True)
class Version:
    """Inode number and size of a file: a larger one with the same number begins with the same bytes."""

    number: int
    size: int


@dataclass(frozen=True)
class Change:
    """The new content of a file since the last poll.

    Attributes:
        path: relative to the run directory.
        offset: where the data belongs; 0 replaces the file.
        data: the bytes.
        version: the file as it is now.
    """

    path: str
    offset: int
    data: bytes
    version: Version


@dataclass(frozen=True)
class View:
    """A Ray actor's answer to a poll by the launcher.

    Attributes:
        life: as of its `Place`.
        status: the exit status of its process; None while it runs or before it was started.
        changes: of its files since the last look, those that others refer to first.
        gone: files that are not there any more.
    """

    life: str
    status: int | None
    changes: list[Change]
    gone: list[str]


class Host:
    """The class of the Ray actor, which supervises one process of a run."""

    def __init__(self) -> None:
        self._life = secrets.token_hex(8)
        self._temporary = TemporaryFolder(Path(tempfile.gettempdir()))
        self._folder = self._temporary.path / "run"
        self._folder.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def place(self, port: int) -> Place:
        """The actor's node, and a free port on it.

        Args:
            port: the one to prefer; 0: any.
        """
        from ray.util import get_node_ip_address

        host: str = get_node_ip_address()  # type: ignore[no-untyped-call]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                return Place(self._life, host, probe.getsockname()[1])
        return self.place(0)

    def start(self, files: Mapping[str, bytes], arguments: Sequence[str], threads: int) -> None:
        """Start the process, or restart it if it runs.

        Args:
            files: of its run directory, by relative path; others there stay.
            arguments: of matrpo, in the run directory.
            threads: of numerical libraries.
        """
        self.stop()
        for path, data in files.items():
            file = self._folder / path
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_crash_safely(file, data, mode=0o600 if path.startswith(_PRIVATE) else 0o644)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "matrpo.launch.cli", *arguments, "--until-eof"],
            cwd=self._folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def look(self, known: Mapping[str, Version]) -> View:
        """The process's status, and the changes to its files since the versions `known`."""
        status = None if self._process is None else self._process.poll()
        paths = {str(path.relative_to(self._folder)) for path in self._folder.rglob("[!.]*") if path.is_file()}
        shown = [path for path in paths if not path.startswith(_PRIVATE)]
        shown.sort(key=lambda path: (path.endswith(".json"), "/checkpoint-" in path))
        changes = [change for path in shown if (change := self._change(path, known.get(path)))]
        return View(self._life, status, changes, sorted(known.keys() - paths))

    def stop(self) -> None:
        """End the process; it saves its state first."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """End the process and remove its folder."""
        self.stop()
        self._temporary.remove()

    def _change(self, path: str, known: Version | None) -> Change | None:
        try:
            with open(self._folder / path, "rb") as file:
                status = os.fstat(file.fileno())
                number = status.st_ino
                offset = known.size if known and known.number == number and known.size <= status.st_size else 0
                if known == Version(number, status.st_size):
                    return None
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return None
        return Change(path, offset, data, Version(number, offset + len(data)))
