"""What a phase is charged with: its own time, without waiting, once."""

from matrpo.runs.phase_clock import PhaseClock


def test_phase_clock_gives_each_iteration_its_own_share() -> None:
    times = iter([0.0, 2.0, 5.0, 6.0, 10.0, 14.0])
    clock = PhaseClock(lambda: next(times))
    with clock.phase("rollout"):
        pass
    with clock.phase("rollout"):
        pass
    assert clock.take({"sent": 5}) == {"sent": 5, "seconds_rollout": 3.0}
    with clock.phase("finish"):
        pass
    assert clock.take({"sent": 7}) == {"sent": 2, "seconds_finish": 4.0}


def test_waiting_counts_for_no_phase() -> None:
    times, waits = iter([0.0, 9.0, 9.0, 11.0]), iter([1.0, 4.0, 4.0, 4.5])
    clock = PhaseClock(lambda: next(times), lambda: next(waits))
    with clock.phase("rollout"):
        pass
    with clock.phase("consensus"):
        pass
    assert clock.take({}) == {"seconds_rollout": 6.0, "seconds_waiting": 3.5, "seconds_consensus": 1.5}


def test_processor_time_counts_for_its_phase_and_for_the_whole_iteration() -> None:
    used = iter([1.0, 2.0, 5.0, 7.0, 7.0, 7.5, 8.0])
    clock = PhaseClock(lambda: 0.0, used=lambda: next(used))
    with clock.phase("rollout"):
        pass
    assert clock.take({}) == {"seconds_rollout": 0.0, "cpu_seconds_rollout": 3.0, "cpu_seconds": 6.0}
    with clock.phase("finish"):
        pass
    assert clock.take({}) == {"seconds_finish": 0.0, "cpu_seconds_finish": 0.5, "cpu_seconds": 1.0}


def test_a_phase_inside_another_is_part_of_that_one() -> None:
    times = iter([0.0, 5.0, 6.0, 7.0])
    clock = PhaseClock(lambda: next(times))
    with clock.phase("consensus"), clock.phase("consensus"), clock.phase("finish"):
        pass
    with clock.phase("finish"):
        pass
    assert clock.take({}) == {"seconds_consensus": 5.0, "seconds_finish": 1.0}
