"""Files that are never seen half-written."""

from pathlib import Path

import pytest

from matrpo.runs.storage import StorageError, replaced_when_complete, storing, write_crash_safely


def test_a_file_is_written_with_its_mode_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "key"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".key.tmp").write_text("left by a crash, for all to read")
    write_crash_safely(path, b"first", mode=0o600)
    write_crash_safely(path, b"second", mode=0o600)
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["key"]


def test_what_breaks_off_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_text("old")

    def write_half() -> None:
        with replaced_when_complete(path) as draft:
            draft.write_text("half")
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        write_half()
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_what_cannot_be_written_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "below"
    with pytest.raises(StorageError, match=f"cannot write {path}: Not a directory"):
        write_crash_safely(path, b"")
    with pytest.raises(StorageError, match=f"cannot write {path}: Not a directory"), storing(path):
        path.write_text("")
