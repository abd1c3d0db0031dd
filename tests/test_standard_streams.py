"""Streams that cannot be written to: closed, full, hung up, or read by nobody."""

import os
import pty
import subprocess
import sys

import pytest

WRITER = """
import os, sys
from matrpo import standard_streams
standard_streams._PATIENCE = 0.1
standard_streams.drop_unwritable("stdout", "stderr", on_broken_pipe={pipe})
for size in (1, 100_000, 1):
    print("x" * size)
    print("y" * size, file=sys.stderr)
print("unfinished", end="")
sys.exit({status})
"""


def status(pipe: str = "None", code: int = 7, **streams: object) -> int:
    """The exit status of a program that writes much to both streams."""
    text = WRITER.format(pipe=pipe, status=code)
    return subprocess.run([sys.executable, "-c", text], timeout=60, **streams).returncode  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def unread() -> int:
    """A pipe that somebody has open and never reads."""
    reader, writer = os.pipe()
    yield writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def broken() -> int:
    """A pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_writing_to_a_broken_pipe_changes_neither_the_program_nor_its_exit_status(broken):
    assert status(stdout=broken, stderr=broken) == 7


def test_a_pipe_that_nobody_reads_does_not_hold_the_program_up(unread):
    assert status(stdout=unread, stderr=unread) == 7


def test_a_full_disk_does_not_hold_the_program_up():
    with open("/dev/full", "w") as full:
        assert status(stdout=full, stderr=full) == 7


def test_a_closed_descriptor_is_none_at_all():
    assert status(preexec_fn=lambda: (os.close(1), os.close(2))) == 7


@pytest.mark.parametrize("hung_up", [True, False], ids=["closed", "not read"])
def test_a_terminal_that_is_closed_or_not_read_does_not_hold_the_program_up(hung_up):
    master, slave = pty.openpty()
    if hung_up:
        os.close(master)
    assert status(stdout=slave, stderr=slave) == 7
    os.close(slave)


def test_who_wants_to_know_of_a_broken_pipe_is_told(broken):
    assert status(pipe="lambda: os._exit(3)", stderr=broken, stdout=subprocess.DEVNULL) == 3


def test_what_can_be_written_arrives_whole():
    text = WRITER.format(pipe="None", status=0)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == f"x\n{'x' * 100_000}\nx\nunfinished"
    assert done.stderr == f"y\n{'y' * 100_000}\ny\n"
