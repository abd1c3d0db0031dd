from __future__ import annotations

from matrpo.launch.commands.launch import LaunchMode
from matrpo.launch.processes.restarts import BackOff, Restarts, goes_on_without
from matrpo.runs.process_id import ProcessId


def test_each_restart_within_a_minute_waits_twice_as_long_and_the_sixth_is_refused() -> None:
    back_off = BackOff()
    assert [back_off.next_delay(now) for now in range(6)] == [0.5, 1.0, 2.0, 4.0, 8.0, None]
    assert back_off.next_delay(60.5) == 8.0, "the first is forgotten"
    assert back_off.next_delay(200.0) == 0.5


def test_who_is_started_again_and_without_whom_a_run_goes_on() -> None:
    killed, failed, mistake = -9, 1, 2
    codes = (0, killed, failed, mistake)
    assert [code for code in codes if Restarts.NONE.covers(code)] == []
    assert [code for code in codes if Restarts.KILLED.covers(code)] == [killed]
    assert [code for code in codes if Restarts.FAILED.covers(code)] == [killed, failed]
    agent, server = ProcessId.agent(1), ProcessId.server()
    assert [code for code in codes if goes_on_without(agent, code, "noop")] == [killed]
    assert not goes_on_without(agent, killed, "abort")
    assert not goes_on_without(server, killed, "noop")


def test_over_tcp_restarting_is_the_default() -> None:
    def restarts(typed: bool | None, transport: str) -> Restarts:
        return LaunchMode(False, typed, False, None).restarts(transport)

    assert restarts(None, "tcp") is Restarts.KILLED
    assert restarts(None, "ipc") is Restarts.NONE
    for transport in ("tcp", "ipc"):
        assert restarts(True, transport) is Restarts.FAILED
        assert restarts(False, transport) is Restarts.NONE
