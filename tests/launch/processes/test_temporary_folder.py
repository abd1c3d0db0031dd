"""Temporary folders of processes that live, that have ended and that were killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from matrpo.errors import ConfigError
from matrpo.launch.processes import temporary_folder
from matrpo.launch.processes.temporary_folder import TemporaryFolder, parent_for_sockets, remove_if_dead

HOLDER = """
import sys
from pathlib import Path
from matrpo.launch.processes.temporary_folder import TemporaryFolder
folder = TemporaryFolder(Path(sys.argv[1]))
(folder.path / "socket").touch()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path):
    """A process that holds a folder, and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_only_its_user_may_look_into_a_folder_and_it_goes_when_told(tmp_path):
    folder = TemporaryFolder(tmp_path)
    assert folder.path.parent == tmp_path
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.remove()
    assert not folder.path.exists()


def test_what_a_killed_process_has_left_goes_with_the_next_one_and_a_living_ones_stays(tmp_path, held):
    process, path = held
    one = TemporaryFolder(tmp_path)
    remove_if_dead(path)
    assert (path / "socket").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    another = TemporaryFolder(tmp_path)
    assert not path.exists()
    assert one.path.exists()
    one.remove()
    another.remove()


def test_a_folder_that_is_not_such_a_one_is_left_alone(tmp_path, monkeypatch):
    others = tmp_path / "matrpo-others"
    others.mkdir()
    (others / "work").touch()
    link = tmp_path / "matrpo-link"
    link.symlink_to(others)
    TemporaryFolder(tmp_path).remove()
    assert (others / "work").exists()
    (others / "lock").touch()
    monkeypatch.setattr(os, "getuid", lambda: others.stat().st_uid + 1)
    TemporaryFolder(tmp_path).remove()
    assert (others / "work").exists()


def test_a_folder_that_was_removed_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    taken = []

    def lock_late(*_):
        if not taken:
            taken.extend(tmp_path.glob("matrpo-*"))
            for folder in taken:
                (folder / "lock").unlink()
                folder.rmdir()

    monkeypatch.setattr(temporary_folder.fcntl, "flock", lock_late)
    folder = TemporaryFolder(tmp_path)
    assert folder.path.exists()
    assert folder.path not in taken
    folder.remove()


@pytest.mark.parametrize("length", [1, 68, 69, 84, 200])
def test_sockets_are_put_where_their_paths_are_short_enough(monkeypatch, length):
    usual = "/tmp/" + "é" * ((length - 5) // 2) if length > 5 else "/"
    monkeypatch.setattr(temporary_folder.tempfile, "gettempdir", lambda: usual)
    monkeypatch.setattr(os, "access", lambda *_: True)
    parent = parent_for_sockets()
    assert len(os.fsencode(parent / "matrpo-12345678" / "listener-12345678")) <= 103
    assert (str(parent) == usual) == (len(os.fsencode(usual)) <= 68)


def test_without_any_folder_for_sockets_one_line_says_so(monkeypatch):
    def none_at_all():
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(temporary_folder.tempfile, "gettempdir", none_at_all)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match="TMPDIR"):
        parent_for_sockets()
