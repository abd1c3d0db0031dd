"""What the gate lets through, when, and in which shape."""

import pytest

from matrpo.faults.fault import Fault, Position, Trigger
from matrpo.faults.gate import NOTICED_AFTER, Activity, FaultGate

FRAMES = [b"header", b"payload of some length"]


def at(iteration=1, phase="rollout", activation=0, seconds=0.0):
    return Position(iteration, phase, activation, seconds)


def gate(*faults, seed=0):
    gate = FaultGate(faults, agent=0, neighbours=[1, 2], seed=seed)
    gate.activity.move(at())
    return gate


def fault(kind, number=0, directions=((0, 1),), **amounts):
    return Fault(number, kind, directions=frozenset(directions), amounts=amounts)


def test_without_a_fault_a_message_passes_untouched():
    assert gate().take(1, FRAMES, 0.0) == [FRAMES]


def test_loss_has_its_probability_and_direction():
    lossy = gate(fault("drop", probability=0.3))
    passed = sum(len(lossy.take(1, FRAMES, 0.0)) for _ in range(5000))
    assert passed == pytest.approx(3500, abs=150)
    assert all(lossy.take(2, FRAMES, 0.0) == [FRAMES] for _ in range(100))


def test_chances_follow_the_seed():
    def losses(seed):
        lossy = gate(fault("drop", probability=0.5), seed=seed)
        return [len(lossy.take(1, FRAMES, 0.0)) for _ in range(50)]

    assert losses(1) == losses(1) != losses(2)


def test_a_partition_lets_nothing_through():
    cut = gate(fault("partition"))
    assert cut.take(1, FRAMES, 0.0) == []
    assert cut.take(2, FRAMES, 0.0) == [FRAMES]


def test_duplicates_and_flipped_bits():
    assert gate(fault("duplicate", probability=1.0)).take(1, FRAMES, 0.0) == [FRAMES, FRAMES]
    (frames,) = gate(fault("corrupt", probability=1.0)).take(1, FRAMES, 0.0)
    assert [len(frame) for frame in frames] == [len(frame) for frame in FRAMES]
    pairs = zip(b"".join(frames), b"".join(FRAMES), strict=True)
    assert sum((a ^ b).bit_count() for a, b in pairs) == 1


def test_garbage_comes_besides_the_message():
    hostile = gate(fault("hostile", probability=1.0))
    for _ in range(50):
        garbage, message = hostile.take(1, FRAMES, 0.0)
        assert garbage != FRAMES == message


def test_delayed_messages_leave_in_time():
    slow = gate(fault("delay", seconds=1.0, jitter=0.5))
    assert slow.take(1, FRAMES, 10.0) == []
    assert 11.0 <= slow.next_at <= 11.5
    assert slow.due(10.9) == []
    assert slow.due(11.5) == [(1, FRAMES)]
    assert slow.next_at == float("inf")


def test_a_reordered_message_is_overtaken():
    gate_ = gate(fault("reorder", probability=0.5), seed=3)
    sent, received = range(100), []
    for number in sent:
        received += [frames[0] for _, frames in gate_.due(0.01 * number)]
        received += [frames[0] for frames in gate_.take(1, [number.to_bytes(1)], 0.01 * number)]
    received += [frames[0] for _, frames in gate_.due(10.0)]
    assert sorted(received) == [number.to_bytes(1) for number in sent] != received


def test_a_narrow_link_carries_its_bytes_per_second():
    narrow = gate(fault("limit", bytes_per_second=100.0))
    for _ in range(10):
        assert narrow.take(1, [b"x" * 50], 0.0) == []
    assert len(narrow.due(2.51)) == 5
    assert len(narrow.due(5.0)) == 5


def test_a_neighbour_cut_off_for_long_counts_as_lost():
    both = gate(fault("partition", directions=((0, 1), (1, 0))))
    one_way = gate(fault("drop", probability=1.0))
    for silent in (both, one_way):
        assert silent.cut_off(0.0) == []
    assert both.cut_off(NOTICED_AFTER) == [1]
    assert one_way.cut_off(NOTICED_AFTER) == []


def test_faults_begin_and_end_by_position_and_by_time():
    first = Fault(0, "drop", begin=Trigger(iteration=2), end=Trigger(iteration=4))
    second = Fault(1, "drop", begin=Trigger(2, "consensus", 3), lasts=5.0)
    activity = Activity([first, second])
    assert activity.move(at(1, seconds=1.0)) == ([], [])
    assert activity.move(at(2, seconds=2.0)) == ([first], [])
    assert activity.move(at(2, "consensus", 3, 3.0)) == ([second], [])
    assert activity.active == [first, second]
    assert activity.move(at(3, seconds=8.0)) == ([], [second])
    assert activity.move(at(4, seconds=9.0)) == ([], [first])
    assert activity.move(at(2, "consensus", 3, 99.0)) == ([], [])


def test_a_fault_that_comes_back():
    flapping = Fault(0, "drop", lasts=2.0, every=6.0)
    activity = Activity([flapping])
    active = []
    for second in range(14):
        activity.move(at(seconds=float(second)))
        active.append(bool(activity.active))
    assert [second for second, acts in enumerate(active) if acts] == [0, 1, 6, 7, 12, 13]
