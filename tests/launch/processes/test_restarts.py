from __future__ import annotations

from matrpo.launch.processes.restarts import BackOff


def test_each_restart_within_a_minute_waits_twice_as_long_and_the_sixth_is_refused() -> None:
    back_off = BackOff()
    assert [back_off.next_delay(now) for now in range(6)] == [0.5, 1.0, 2.0, 4.0, 8.0, None]
    assert back_off.next_delay(60.5) == 8.0, "the first is forgotten"
    assert back_off.next_delay(200.0) == 0.5
