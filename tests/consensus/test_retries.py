"""When questions come, by the clock: with answers, without, and on a link with losses."""

from __future__ import annotations

import pytest

from matrpo.consensus.retries import Retries

RESEND = 32.0


def waits(retries: Retries, heard: list[bool]) -> list[float]:
    """Seconds until each question, of an activation opened at 0; `heard`: whether anything comes right after it."""
    retries.open(0.0)
    now, heard_at, seconds = 0.0, 0.0, []
    for something_comes in heard:
        seconds.append(retries.ask_at - now)
        now = retries.ask_at
        retries.ask(now, heard_at)
        heard_at = now if something_comes else heard_at
    return seconds


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        ([True] * 7, [1, 2, 4, 8, 16, 32, 32]),
        ([False] * 7, [1, 2, 4, 4, 4, 4, 4]),
        ([True] * 4 + [False] * 3, [1, 2, 4, 8, 16, 32, 4]),
        ([False] * 4 + [True] * 3, [1, 2, 4, 4, 4, 4, 8]),
    ],
    ids=["heard", "unheard", "no longer heard", "heard again"],
)
def test_questions_come_after_twice_the_time_but_sooner_once_nothing_follows_one(
    heard: list[bool], expected: list[float]
) -> None:
    assert waits(Retries(RESEND), heard) == expected


def test_on_a_link_with_losses_they_come_after_a_round_trip() -> None:
    retries = Retries(RESEND)
    retries.note_loss((0, 1))
    assert retries.copies == 2
    assert waits(retries, [False] * 3) == [RESEND / 256] * 3
