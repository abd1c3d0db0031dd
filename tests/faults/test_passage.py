"""What faults do to one message, for the sockets and for the simulators."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrpo.faults.passage import OVERTAKEN, Passage

CHANCES = ("drop", "partition", "duplicate", "reorder", "corrupt", "hostile", "full")


def never() -> float:
    return 0.999


def always() -> float:
    return 0.0


def after(*faults: tuple[str, dict[str, float]], random=always) -> Passage:
    passage = Passage()
    for kind, amounts in faults:
        passage.meet(kind, random, **amounts)
    return passage


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("drop", Passage(delays=[])),
        ("partition", Passage(delays=[])),
        ("duplicate", Passage(delays=[0.0, 0.0])),
        ("reorder", Passage(delays=[OVERTAKEN])),
        ("corrupt", Passage(is_corrupt=True)),
        ("hostile", Passage(garbage=1)),
        ("full", Passage(is_refused=True)),
    ],
)
def test_a_fault_happens_with_its_probability(kind: str, expected: Passage) -> None:
    assert after((kind, {"probability": 0.5})) == expected
    assert after((kind, {"probability": 0.5}), random=never) == Passage()


def test_a_delay_is_of_its_seconds_and_of_a_jitter_for_each_copy() -> None:
    passage = after(("duplicate", {}), ("delay", {"seconds": 0.5, "jitter": 0.25}), random=Random(0).random)
    first, second = passage.delays
    assert 0.5 <= min(first, second) < max(first, second) <= 0.75
    assert after(("delay", {"seconds": 0.5}), ("delay", {"seconds": 1.0})) == Passage(delays=[1.5])


def test_what_is_lost_is_neither_late_nor_copied() -> None:
    assert after(("drop", {}), ("duplicate", {}), ("delay", {"seconds": 1.0}), ("reorder", {})) == Passage(delays=[])


def test_what_holds_a_message_up_holds_all_its_copies() -> None:
    passage = after(("duplicate", {}))
    passage.hold(2.0)
    assert passage.delays == [2.0, 2.0]


def test_another_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="no fault of messages: kill"):
        after(("kill", {}))


@given(st.lists(st.sampled_from((*CHANCES, "delay"))), st.randoms(use_true_random=False))
def test_faults_of_any_number_meet_a_message(kinds: list[str], random: Random) -> None:
    passage = Passage()
    for kind in kinds:
        passage.meet(kind, random.random, probability=0.5, seconds=0.1, jitter=0.1)
    assert len(passage.delays) <= 2 ** kinds.count("duplicate")
    assert min(passage.delays, default=0.0) >= 0.1 * kinds.count("delay") - 1e-9 or not passage.delays
