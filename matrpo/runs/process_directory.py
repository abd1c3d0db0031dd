"""The files of one process: its metrics, its log and its checkpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from matrpo.errors import ConfigError
from matrpo.runs.storage import storing, write_crash_safely

_CHECKPOINT = re.compile(r"checkpoint-(\d{6,})\.json")


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
            number, last_run = int(last["incarnation"]), last["run_id"]
        except FileNotFoundError:
            number, last_run = 0, None
        except (OSError, ValueError, TypeError, KeyError):
            raise ConfigError(f"{path} is damaged: it must hold the number of the process's last start") from None
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
        """All complete lines of metrics; empty if there are none."""
        return MetricsTail(self.metrics_path).poll()

    def save_checkpoint(self, iteration: int, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Write the checkpoint of `iteration`: two files, the .json last, so that it marks a complete pair.

        Args:
            iteration: the iteration that produced this state.
            arrays: what safetensors stores, by name.
            meta: anything JSON can hold.

        Raises:
            StorageError: the disk is full or read-only; no file under a final name is half-written.
        """
        stem = self._checkpoint(iteration)
        data = safetensors.numpy.save({name: np.array(array, order="C") for name, array in arrays.items()})
        write_crash_safely(stem.with_suffix(".safetensors"), data)
        write_crash_safely(stem.with_suffix(".json"), json.dumps({"iteration": iteration, **meta}).encode())

    def load_checkpoint(self, iteration: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The arrays and the meta data saved for `iteration`.

        Raises:
            ConfigError: there is none, or it is damaged.
        """
        stem = self._checkpoint(iteration)
        try:
            arrays = safetensors.numpy.load(stem.with_suffix(".safetensors").read_bytes())
            return arrays, self.read_checkpoint_meta(iteration)
        except OSError as error:
            raise ConfigError(f"cannot read checkpoint {stem}: {error.strerror}") from None
        except safetensors.SafetensorError as error:
            raise ConfigError(f"checkpoint {stem}.safetensors is damaged: {error}") from None

    def read_checkpoint_meta(self, iteration: int) -> dict[str, Any]:
        """The meta data saved for `iteration`, without its arrays.

        Raises:
            ConfigError: there is none, or it is damaged.
        """
        path = self._checkpoint(iteration).with_suffix(".json")
        try:
            meta = json.loads(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"cannot read checkpoint {path}: {error.strerror}") from None
        except ValueError:
            raise ConfigError(f"checkpoint {path} is damaged: not JSON") from None
        if not isinstance(meta, dict):
            raise ConfigError(f"checkpoint {path} is damaged: not a mapping")
        return meta

    def checkpoint_iterations(self) -> list[int]:
        """Iterations with a complete checkpoint, ascending."""
        matches = [_CHECKPOINT.fullmatch(path.name) for path in self.path.glob("checkpoint-*.json")]
        found = sorted(int(match[1]) for match in matches if match)
        return [i for i in found if self._checkpoint(i).with_suffix(".safetensors").exists()]

    def prune(self, kept: int) -> None:
        """Delete all checkpoints but the last `kept`."""
        for iteration in self.checkpoint_iterations()[:-kept]:
            self._delete(iteration)

    def rewind(self, iteration: int) -> None:
        """Roll back to `iteration`: delete later lines and checkpoints, and leftovers of interrupted writes.

        Raises:
            StorageError: the disk is full or read-only.
        """
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        for later in self.checkpoint_iterations():
            if later > iteration:
                self._delete(later)
        if self.metrics_path.exists():
            kept = [line for line in self.read_metrics() if line.get("iteration", 0) <= iteration]
            write_crash_safely(self.metrics_path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def _checkpoint(self, iteration: int) -> Path:
        return self.path / f"checkpoint-{iteration:06d}"

    def _delete(self, iteration: int) -> None:
        stem = self._checkpoint(iteration)
        stem.with_suffix(".json").unlink(missing_ok=True)
        stem.with_suffix(".safetensors").unlink(missing_ok=True)


class MetricsTail:
    """Follows a metrics file as it grows (like `tail -f`): complete lines only, each once.

    Args:
        path: the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def poll(self) -> list[dict[str, Any]]:
        """The lines completed since the last call. A damaged line is skipped."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return []
        end = data.rfind(b"\n") + 1
        self._offset += end
        return [line for line in map(_parse_line, data[:end].splitlines()) if line is not None]


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(line)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
