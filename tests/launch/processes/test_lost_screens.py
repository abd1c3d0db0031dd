"""However a run is stopped, and whoever can no longer be told of it, its state is saved and its processes are gone."""

from __future__ import annotations

import contextlib
import os
import pty
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from running import (
    command,
    free_ports,
    has_iterations,
    names,
    session_of,
    socket_directory,
    start,
    survivors,
    train,
    wait_for,
)

from matrpo.runs.run_directory import RunDirectory

RARE = ("--agents", "3", "--steps", "4000000", "--checkpoint-every", "1000000")
"""What is saved is what the stop has saved."""

KINDS = {
    "processes": (),
    "tcp": ("--transport", "tcp"),
    "large": ("--hidden-sizes", "512,512"),
    "in process": ("--in-process",),
    "workers": ("--in-process", "--env-workers", "2", "--task", "mpe2/simple_spread_v3"),
    "central": ("--algo", "happo"),
}
kinds = pytest.mark.parametrize("kind", KINDS)
pytestmark = pytest.mark.slow


def arguments(kind: str) -> tuple[str, ...]:
    ports = ("--port", str(free_ports(4))) if kind == "tcp" else ()
    return (*RARE, *KINDS[kind], *ports)


def piped(run: Path, kind: str, reader: str) -> subprocess.Popen[str]:
    """A run whose screen is a pipe to another program; its exit status is the run's."""
    line = f"{shlex.join(command(run, *arguments(kind)))} 2>&1 | {reader}; exit ${{PIPESTATUS[0]}}"
    return subprocess.Popen(["bash", "-c", line], stdout=subprocess.DEVNULL, text=True, start_new_session=True)


def assert_saved(run: Path) -> None:
    assert RunDirectory.open(run).latest_common_iteration() >= 2


@kinds
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_all_processes_saves_what_all_have(tmp_path: Path, kind: str, number: signal.Signals) -> None:
    run = tmp_path / "run"
    with start(run, *arguments(kind)) as launcher:
        wait_for(has_iterations(run, 4), launcher)
        everyone = session_of(launcher)
        os.killpg(launcher.pid, number)
        assert launcher.wait(30) == 130
        assert launcher.stderr is not None
        errors = launcher.stderr.read()
    assert f"stopped; go on with: matrpo launch --run {run} --resume" in errors
    assert "Traceback" not in errors
    assert_saved(run)
    assert survivors(everyone, within=5) == []


@kinds
def test_two_signals_at_once_as_timeout_sends_them_are_one(tmp_path: Path, kind: str) -> None:
    run = tmp_path / "run"
    with start(run, *arguments(kind)) as launcher:
        wait_for(has_iterations(run, 4), launcher)
        launcher.send_signal(signal.SIGTERM)
        os.killpg(launcher.pid, signal.SIGTERM)
        assert launcher.wait(30) == 130
    assert_saved(run)


@kinds
def test_a_reader_that_ctrl_c_ends_too_does_not_keep_a_run_from_being_saved(tmp_path: Path, kind: str) -> None:
    run = tmp_path / "run"
    with piped(run, kind, f"tee {tmp_path / 'log'}") as shell:
        wait_for(has_iterations(run, 4), shell)
        os.killpg(shell.pid, signal.SIGINT)
        assert shell.wait(30) == 130
    assert_saved(run)


@kinds
def test_a_reader_that_has_read_enough_stops_the_run(tmp_path: Path, kind: str) -> None:
    run = tmp_path / "run"
    with piped(run, kind, "head -12") as shell:
        assert shell.wait(90) == 130
    assert_saved(run)


def in_terminal(run: Path, kind: str, lives: Callable[[], bool], read: bool = True) -> tuple[int, int]:
    """Start a run in a terminal of its own and wait; its process id and the terminal."""
    line = command(run, *arguments(kind))
    process, terminal = pty.fork()
    if process == 0:
        os.environ["TERM"] = "xterm"
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        os.execv(line[0], line)

    def show() -> None:
        with contextlib.suppress(OSError):
            while os.read(terminal, 65536):
                pass

    if read:
        threading.Thread(target=show, daemon=True).start()
    deadline = time.monotonic() + 90
    while not lives():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, terminal


@kinds
def test_a_terminal_that_is_closed_stops_the_run(tmp_path: Path, kind: str) -> None:
    run = tmp_path / "run"
    process, terminal = in_terminal(run, kind, has_iterations(run, 4))
    os.kill(process, signal.SIGHUP)  # as the system does when the last who has the terminal open is gone
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 130
    os.close(terminal)
    assert_saved(run)


@pytest.mark.parametrize("kind", ["processes", "in process"])
def test_a_terminal_that_nobody_reads_holds_nobody_up(tmp_path: Path, kind: str) -> None:
    run = tmp_path / "run"
    process, terminal = in_terminal(run, kind, has_iterations(run, 60), read=False)
    os.kill(process, signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 130
    os.close(terminal)
    assert_saved(run)


def test_a_run_that_was_stopped_before_anything_was_saved_does_not_promise_to_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with start(run, *arguments("processes")) as launcher:
        wait_for((run / "cluster.yaml").exists, launcher)
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(30) == 130
        assert launcher.stderr is not None
        errors = launcher.stderr.read()
    assert "--resume" not in errors
    assert "stopped; no iteration was saved" in errors


def _process(launcher: subprocess.Popen[str], name: str) -> psutil.Process:
    return next(process for process in session_of(launcher) if names([process]) == [f"matrpo {name}"])


def _more(run: Path, agent: int, count: int) -> Callable[[], bool]:
    """Whether an agent has written so many more lines than now."""
    goal = len(RunDirectory.open(run).agent(agent).read_metrics()) + count
    return lambda: len(RunDirectory.open(run).agent(agent).read_metrics()) >= goal


def _see_stopped(process: psutil.Process) -> None:
    """Stop a process until it is seen so: the launcher's call to go on takes back a stop that is still pending."""
    deadline = time.monotonic() + 20
    while process.status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline
        process.suspend()
        time.sleep(0.01)


def test_a_warm_parent_that_is_stopped_holds_nobody_up(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with start(run, *arguments("processes"), "--restart") as launcher:
        wait_for(has_iterations(run, 4), launcher)
        everyone = session_of(launcher)
        parent = _process(launcher, "warm parent")
        _see_stopped(parent)
        _process(launcher, "agent 1").kill()
        wait_for(_more(run, 1, 3), launcher)
        parent.suspend()
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(30) == 130
        assert launcher.stderr is not None
        errors = launcher.stderr.read()
    assert "the warm parent of all processes was stopped: it was told to go on" in errors
    assert "agent 1 was started again" in errors
    assert_saved(run)
    assert survivors(everyone, within=5) == []


def test_an_agent_that_is_killed_again_and_again_is_lost_as_without_restart(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with start(run, *arguments("processes"), "--restart") as launcher:
        wait_for(has_iterations(run, 4), launcher)
        killed, deadline = set[int](), time.monotonic() + 90
        while len(killed) < 6:
            assert time.monotonic() < deadline
            with contextlib.suppress(StopIteration, psutil.Error):
                agent = _process(launcher, "agent 1")
                agent.kill()
                killed.add(agent.pid)
            time.sleep(0.05)
        wait_for(_more(run, 0, 5), launcher)
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(30) == 130
        assert launcher.stderr is not None
        errors = launcher.stderr.read()
    assert "agent 1 was killed by SIGKILL, again and again: it is not started any more" in errors
    assert "agent 1 was killed by SIGKILL; the others go on" in errors


@pytest.mark.parametrize("typed", [(), ("--no-restart",)])
def test_over_tcp_a_process_that_is_killed_comes_back_unless_told_otherwise(tmp_path: Path, typed: list[str]) -> None:
    run = tmp_path / "run"
    with start(run, *arguments("tcp"), *typed) as launcher:
        wait_for(has_iterations(run, 4), launcher)
        _process(launcher, "agent 1").kill()
        wait_for(_more(run, 0, 5), launcher)
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(30) == 130
        assert launcher.stderr is not None
        assert ("starting it again" in launcher.stderr.read()) == (not typed)


def test_a_long_name_of_the_folder_for_temporary_files_does_not_matter(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    train(tmp_path / "run", "--agents", "3", env=os.environ | {"TMPDIR": str(folder)})
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("victims", ["launcher", "all"])
def test_what_killed_runs_leave_behind_goes_with_the_next_and_a_living_ones_stays(tmp_path: Path, victims: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        environment = os.environ | {"TMPDIR": folder}
        run, other = tmp_path / "run", tmp_path / "other"
        with (
            start(run, *arguments("processes"), env=environment) as launcher,
            start(other, *arguments("processes"), env=environment) as living,
        ):
            wait_for(has_iterations(run, 2), launcher)
            wait_for(has_iterations(other, 2), living)
            everyone = session_of(launcher)
            if victims == "all":
                os.killpg(launcher.pid, signal.SIGKILL)
            else:
                launcher.kill()
            assert survivors(everyone, within=5) == []
            train(tmp_path / "next", "--agents", "3", env=environment)
            assert list(Path(folder).iterdir()) == [socket_directory(other)]
            living.send_signal(signal.SIGINT)
            assert living.wait(30) == 130
        assert list(Path(folder).iterdir()) == []
