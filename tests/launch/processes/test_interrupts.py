"""Signals that stop a process: counted, raised once, ignored; and what else a process asks of its system."""

import ctypes
import os
import signal
import time
from types import SimpleNamespace

import pytest

from matrpo.envs.workers.cores import usable_cores
from matrpo.launch.processes import process
from matrpo.launch.processes.interrupts import Interrupts, deadline, stop_launcher
from matrpo.launch.processes.process import STOPS, StopRequested, handle_stops, ignore_stops, stop_at
from matrpo.launch.processes.warm_children import WarmParent


@pytest.fixture(autouse=True)
def handlers():
    """Every test leaves the signals as they were."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


def test_only_ctrl_c_hastens_a_stop():
    with Interrupts().counted() as interrupts:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
            send(number)
        assert (interrupts.count, interrupts.presses) == (3, 0)
        send(signal.SIGINT)
        assert (interrupts.count, interrupts.presses) == (4, 1)


def test_a_launcher_with_nothing_to_stop_is_not_stopped_by_a_broken_pipe():
    signal.signal(signal.SIGTERM, lambda *_: pytest.fail("nobody asked"))
    stop_launcher()
    with Interrupts().counted() as interrupts:
        stop_launcher()
        assert interrupts.count == 1
    stop_launcher()


def test_a_second_signal_does_not_disturb_what_the_first_one_has_begun():
    """`timeout` sends two in a row; the state is saved meanwhile."""
    stop_at(signal.SIGTERM)
    saved = False
    try:
        send(signal.SIGTERM)
    except StopRequested:
        try:
            raise ValueError
        except ValueError:
            send(signal.SIGTERM)
        saved = True
    assert saved
    with pytest.raises(StopRequested):
        send(signal.SIGTERM)


def test_nohup_stands_and_what_was_blocked_is_not():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    heard = []
    handle_stops(lambda number, _: heard.append(number), *STOPS)
    for number in STOPS:
        send(number)
    assert heard == [signal.SIGINT, signal.SIGTERM]


def test_all_stops_are_ignored_while_the_state_is_saved():
    ignore_stops()
    for number in STOPS:
        send(number)


def test_a_deadline_ends_a_wait_and_leaves_nothing_behind():
    reader, writer = os.pipe()
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeoutError), deadline(0.05):
        os.read(reader, 1)
    with deadline(60.0):
        time.sleep(0.0)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before
    os.close(reader)
    os.close(writer)


def test_a_system_without_linuxs_calls_will_do(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    process.signal_at_parents_death(signal.SIGKILL)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == os.cpu_count()
    monkeypatch.delattr(os, "waitid")
    parent = object.__new__(WarmParent)
    parent._id = os.getpid()  # it runs, and nobody can tell whether it had been stopped
    assert not parent.wake()
