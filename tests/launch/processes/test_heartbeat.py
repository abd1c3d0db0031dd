"""Signs of life."""

from __future__ import annotations

import os
import time

import pytest

from matrpo.errors import ConfigError
from matrpo.launch.processes.heartbeat import Heartbeat, read_heartbeat
from matrpo.runs.process_directory import ProcessDirectory


def aged(directory: ProcessDirectory, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(directory.path / "beat", (then, then))


def test_a_beat_tells_the_iteration_and_its_age(tmp_path):
    directory = ProcessDirectory(tmp_path)
    beat = Heartbeat(directory)
    beat(0)
    assert read_heartbeat(directory).iteration == 0
    aged(directory, 500.0)
    assert read_heartbeat(directory).age == pytest.approx(500.0, abs=5.0)
    beat(7)
    assert read_heartbeat(directory).iteration == 7
    assert read_heartbeat(directory).age < 5.0


def test_a_beat_in_the_same_iteration_comes_once_a_second(tmp_path, monkeypatch):
    directory, now = ProcessDirectory(tmp_path), time.monotonic()
    monkeypatch.setattr("matrpo.launch.processes.heartbeat.time.monotonic", lambda: now)
    beat = Heartbeat(directory)
    beat(3)
    aged(directory, 500.0)
    beat(3)
    assert read_heartbeat(directory).age > 400.0
    now += 1.1
    beat(3)
    assert read_heartbeat(directory).age < 5.0


def test_a_disk_that_cannot_be_written_to_stops_nobody(tmp_path):
    Heartbeat(ProcessDirectory(tmp_path / "missing"))(1)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"iteration": null}', b"\xff"])
def test_a_damaged_beat_is_a_clear_error(tmp_path, content):
    (tmp_path / "beat").write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        read_heartbeat(ProcessDirectory(tmp_path))
