"""Record of what a tracker has of a run, in the run directory, so that a resumed run continues its curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from matrpo.errors import ConfigError
from matrpo.runs.process_id import ProcessId
from matrpo.runs.storage import write_crash_safely


class Ledger:
    """What a tracker has of a run: the ids of its own runs there, and how far each process's curves go.

    Args:
        path: its file, which need not exist yet.

    Attributes:
        path: of its file.
        store: where the tracker keeps the runs, if there are several such places; empty at first.
        runs: ids in the tracker by the name of a process's socket, or of the whole, `run`.
        sent: environment steps of each process's last point, by the same names.

    Raises:
        ConfigError: the file is not as it was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = ""
        self.runs: dict[str, str] = {}
        self.sent: dict[str, int] = {}
        if path.exists():
            self._load()

    def begin(self, store: str) -> None:
        """Forget all: the runs are kept elsewhere now, where nothing is known of them yet."""
        self.store, self.runs, self.sent = store, {}, {}

    def last(self, process: ProcessId) -> int:
        """Environment steps of a process's last point; 0 without any."""
        return self.sent.get(process.slug, 0)

    def note(self, process: ProcessId, steps: int) -> None:
        """Note how far a process's curves go; `save` keeps it."""
        self.sent[process.slug] = steps

    def save(self) -> None:
        """Write the file.

        Raises:
            StorageError: the disk is full or read-only.
        """
        content = {"store": self.store, "runs": self.runs, "sent": self.sent}
        write_crash_safely(self.path, json.dumps(content, indent=1).encode())

    def _load(self) -> None:
        try:
            content = json.loads(self.path.read_bytes())
            self.store, self.runs, self.sent = content["store"], content["runs"], content["sent"]
            whole = isinstance(self.store, str) and _maps_to(str, self.runs) and _maps_to(int, self.sent)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            whole = False
        if not whole:
            raise ConfigError(f"{self.path} is damaged: remove it, and the tracker is sent the run anew")


def _maps_to(kind: type, content: object) -> bool:
    return isinstance(content, Mapping) and all(type(value) is kind for value in content.values())
