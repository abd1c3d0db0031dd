"""The files of one process: its metrics, its log and its checkpoints."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from matrpo.consensus.message import LARGEST_NUMBER
from matrpo.errors import ConfigError
from matrpo.runs.json_lines import MetricsTail as MetricsTail
from matrpo.runs.storage import locked, storing, write_crash_safely

_CHECKPOINT = re.compile(r"checkpoint-(\d{6,})\.json")


class DamagedCheckpointError(ConfigError):
    """A checkpoint cannot be read, or not as it was written. Its text is one line that names the file."""


@dataclass(frozen=True)
class Incarnation:
    """Incarnation of a process: one of its starts.

    Attributes:
        number: grows with each start, from 1.
        returns: the process was started before in the same run: this is a restart.
    """

    number: int
    returns: bool


class ProcessDirectory:
    """The files of one process.

    Args:
        path: the folder; made when the first file is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def log_path(self) -> Path:
        """Path of the log, in plain text."""
        return self.path / "log.txt"

    @property
    def metrics_path(self) -> Path:
        """Path of the metrics, one JSON object per line and iteration."""
        return self.path / "metrics.jsonl"

    def begin_incarnation(self, run_id: str, at_least: int = 1) -> Incarnation:
        """Increment this process's incarnation number on disk, before it sends any message.

        Args:
            run_id: marks the messages of the run; a run that all processes continue together has a new one.
            at_least: skip the numbers below.

        Raises:
            ConfigError: the counter is damaged.
            StorageError: the disk is full or read-only.
        """
        path = self.path / "incarnation.json"
        try:
            last = json.loads(path.read_bytes())
            number, last_run = last["incarnation"], last["run_id"]
        except FileNotFoundError:
            number, last_run = 0, None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            raise ConfigError(f"{path} is damaged: it must hold the number of the process's last start") from None
        if type(number) is not int or not 0 <= number < LARGEST_NUMBER - 1:
            raise ConfigError(
                f"{path} is damaged: bad value {number!r} for 'incarnation', the number of the last start"
            )
        number = max(number + 1, at_least)
        write_crash_safely(path, json.dumps({"incarnation": number, "run_id": run_id}).encode())
        return Incarnation(number, last_run == run_id)

    def log_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Append one line of metrics; numbers that are not finite become null.

        Raises:
            StorageError: the disk is full or read-only.
        """
        line = json.dumps(_plain(metrics)) + "\n"
        with storing(self.metrics_path):
            self.path.mkdir(parents=True, exist_ok=True)
            with open(self.metrics_path, "a") as file:
                file.write(line)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All complete lines of metrics; empty if there are none.

        Raises:
            ConfigError: somebody has put something else where a number is wanted.
        """
        return MetricsTail(self.metrics_path).take()

    def save_checkpoint(
        self,
        iteration: int,
        arrays: Mapping[str, np.ndarray],
        meta: Mapping[str, Any],
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the checkpoint of `iteration`: its files, the .json last, so that it marks a complete one.

        Args:
            iteration: the iteration that produced this state.
            arrays: what safetensors stores, by name.
            meta: anything JSON can hold.
            origin: where it comes from: goes to a file of its own, with the checksums of all; None makes no such file.

        Raises:
            StorageError: the disk is full or read-only; no file under a final name is half-written.
        """
        tensors, text, source = self._files(iteration)
        data = safetensors.numpy.save({name: np.array(array, order="C") for name, array in arrays.items()})
        described = json.dumps({"iteration": iteration, **meta}).encode()
        write_crash_safely(tensors, data)
        source.unlink(missing_ok=True)
        if origin is not None:
            own = {**origin, "safetensors": zlib.crc32(data), "json": zlib.crc32(described)}
            write_crash_safely(source, json.dumps({**own, "origin": _checksum(own)}).encode())
        write_crash_safely(text, described)

    def load_checkpoint(self, iteration: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays and the meta data saved for `iteration`.

        Raises:
            DamagedCheckpointError: there is none, or it is not as it was written.
        """
        tensors, text, _ = self._files(iteration)
        origin, data = self.read_origin(iteration), _read(tensors)
        for path, content in ((tensors, data), (text, _read(text))):
            if origin and origin.get(path.suffix[1:]) != zlib.crc32(content):
                raise DamagedCheckpointError(f"checkpoint {path} is damaged: its checksum is another one")
        try:
            return safetensors.numpy.load(data), self.read_checkpoint_meta(iteration)
        except safetensors.SafetensorError as error:
            raise DamagedCheckpointError(f"checkpoint {tensors} is damaged: {error}") from None

    def read_checkpoint_meta(self, iteration: int) -> dict[str, Any]:
        """The meta data saved for `iteration`, without its arrays.

        Raises:
            DamagedCheckpointError: there is none, or it is not as it was written.
        """
        path = self._files(iteration)[1]
        meta = _mapping(path)
        if meta.get("iteration") != iteration:
            raise DamagedCheckpointError(f"checkpoint {path} is damaged: it is of iteration {meta.get('iteration')!r}")
        if not isinstance(meta.get("belongs_to", {}), dict):
            raise DamagedCheckpointError(f"checkpoint {path} is damaged: its 'belongs_to' must be a mapping")
        stream = meta.get("stream", 0)
        if type(stream) is not int or not 0 <= stream < LARGEST_NUMBER:
            raise DamagedCheckpointError(f"checkpoint {path} is damaged: bad value {stream!r} for 'stream'")
        return meta

    def read_origin(self, iteration: int) -> dict[str, Any] | None:
        """Where the checkpoint of `iteration` comes from; None if it does not say.

        Raises:
            DamagedCheckpointError: what it says is not as it was written.
        """
        path = self._files(iteration)[2]
        if not path.exists():
            return None
        origin = _mapping(path)
        if origin.pop("origin", None) != _checksum(origin):
            raise DamagedCheckpointError(f"checkpoint {path} is damaged: its checksum is another one")
        return origin

    def checkpoint_iterations(self) -> list[int]:
        """Iterations with a complete checkpoint, ascending."""
        matches = [_CHECKPOINT.fullmatch(path.name) for path in self.path.glob("checkpoint-*.json")]
        found = sorted(int(match[1]) for match in matches if match)
        return [i for i in found if self._files(i)[0].exists()]

    def has_lost_checkpoints(self) -> bool:
        """Whether of a checkpoint only its origin is left. One that was not written to its end has its arrays, too."""
        names = [path.stem.removeprefix("origin-") for path in self.path.glob("origin-*.json")]
        return any(not (self.path / f"checkpoint-{name}.safetensors").exists() for name in names)

    def prune(self, kept: int) -> None:
        """Delete all checkpoints but the last `kept`."""
        for iteration in self.checkpoint_iterations()[:-kept]:
            self._delete(iteration)

    def rewind(self, iteration: int) -> None:
        """Roll back to `iteration`: delete later lines and checkpoints, and leftovers of interrupted writes.

        Raises:
            ConfigError: the metrics cannot be read.
            StorageError: the disk is full or read-only.
        """
        lines = self.read_metrics()
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        for later in self.checkpoint_iterations():
            if later > iteration:
                self._delete(later)
        if self.metrics_path.exists():
            kept = [line for line in lines if line["iteration"] <= iteration]
            write_crash_safely(self.metrics_path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder: no second copy of the process can use it meanwhile.

        Raises:
            ConfigError: the process runs already, with these files.
            StorageError: the folder cannot be made.
        """
        with storing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path, f"{self.path} is in use: this process runs already"):
            yield

    def _files(self, iteration: int) -> tuple[Path, Path, Path]:
        """The files of a checkpoint: arrays, meta data, and where it comes from."""
        stem = f"checkpoint-{iteration:06d}"
        return (
            self.path / f"{stem}.safetensors",
            self.path / f"{stem}.json",
            self.path / f"origin-{iteration:06d}.json",
        )

    def _delete(self, iteration: int) -> None:
        tensors, text, source = self._files(iteration)
        for path in (text, tensors, source):
            path.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DamagedCheckpointError(f"cannot read checkpoint {path}: {error.strerror}") from None


def _mapping(path: Path) -> dict[str, Any]:
    """The content of a JSON file of a checkpoint."""
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError):
        raise DamagedCheckpointError(f"checkpoint {path} is damaged: not JSON") from None
    if not isinstance(content, dict):
        raise DamagedCheckpointError(f"checkpoint {path} is damaged: not a mapping")
    return content


def _checksum(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content).encode())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
