"""How the two ends of a link commit, ask, give up, undo and skip."""

from __future__ import annotations

import pytest
from simulated_network import check_common_states, same
from two_ends import BETA, RESEND, SHAPE, both_commit

from matrpo.consensus import admm
from matrpo.consensus.link_types import Outcome
from matrpo.consensus.message import LinkMessage


def test_both_ends_commit_the_closed_form(ends):
    a, b = ends
    ours, theirs = both_commit(a, b, 4)
    expected = admm.commit(admm.initial_state(SHAPE), 4, ours.u, theirs.u, +1, BETA)
    assert same(a.link.tip, expected)
    assert same(b.link.tip, expected)
    assert a.link.base.number == b.link.base.number == 0
    both_commit(a, b, 9)
    assert (a.link.base.number, a.link.tip.number) == (b.link.base.number, b.link.tip.number) == (4, 9)
    assert not a.outbox
    assert not b.outbox
    assert a.link.gap == b.link.gap > 0


def test_an_end_that_holds_the_others_message_commits_when_it_opens(ends):
    a, b = ends
    b.receive(a.open(1))
    assert b.link.pending == 1
    reply = b.open(1)
    assert reply.answered
    assert not b.link.is_open
    a.receive(reply)
    assert same(a.link.tip, b.link.tip)
    assert not a.outbox


def test_an_end_that_hears_nothing_asks_an_eighth_of_the_longest_interval_apart_until_the_deadline(ends):
    a, _ = ends
    a.open(1, now=5.0)
    now = 5.0
    for wait in (1 / 16, 1 / 8, *[RESEND / 8] * 39):
        assert a.link.next_event() == now + wait
        a.link.tick(now + 0.9 * wait)
        assert not a.outbox
        now += wait
        a.link.tick(now)
        question = a.take()
        assert (question.kind, question.position, question.u) == ("ask", (0, 1), None)
    assert a.link.next_event() == 15.0
    a.link.tick(15.0)
    assert a.link.outcome is Outcome.GIVEN_UP
    assert a.link.next_event() is None
    assert (a.counters.resends, a.counters.give_ups, a.counters.commits) == (0, 1, 0)
    assert a.link.tip.number == 0


def test_when_both_ends_ratios_are_lost_one_question_brings_both(ends):
    a, b = ends
    ours, theirs = a.open(1), b.open(1)
    for asking, asked in ((a, b), (b, a)):
        asking.link.tick(RESEND)
        asked.receive(asking.take())
        asking.receive(asked.take())
        asked.receive(asking.take())
        copies = [message for _, message in asked.outbox]
        asked.outbox.clear()
        for message in copies:
            asking.receive(message)
        assert asking.link.outcome is Outcome.COMMITTED
        assert not asking.outbox
    assert same(a.link.tip, b.link.tip)
    assert same(a.link.tip, admm.commit(admm.initial_state(SHAPE), 1, ours.u, theirs.u, +1, BETA))
    assert a.counters.resends == b.counters.resends == 1


def test_a_question_that_crosses_the_ratios_does_not_bring_them_twice(ends):
    a, b = ends
    b.receive(a.open(1))
    a.link.tick(RESEND)
    question = a.take()
    theirs = b.open(1)
    b.receive(question)
    a.receive(theirs)
    a.receive(b.take())
    assert not a.outbox
    assert b.counters.resends == 0


def test_who_is_asked_before_it_has_got_there_asks_for_what_was_lost(ends):
    a, b = ends
    a.open(1)
    a.link.tick(RESEND)
    question = a.take()
    b.receive(question)
    a.receive(b.take())
    b.receive(a.take())
    assert b.link.pending == 1
    b.receive(question)
    assert not b.outbox, "it has the ratios now, and will answer when it gets there"


def test_two_ends_that_both_have_not_got_there_do_not_ask_each_other_for_ever(ends):
    a, b = ends
    a.receive(LinkMessage("ask", 1, 0, 0, link=0, k=7))
    b.receive(a.take())
    assert not b.outbox


def test_two_generals(ends):
    """I2: a commits 1, b gives it up; the next activation starts at both from the state before."""
    a, b = ends
    ours, theirs = a.open(1), b.open(1)
    a.receive(theirs)
    b.give_up()
    b.receive(ours, 11.0)
    assert b.take().kind == "over"
    assert a.link.tip.number == 1
    assert b.link.tip.number == 0
    check_common_states(a.link, b.link)
    ours, theirs = both_commit(a, b, 2)
    assert (ours.tip, ours.base, theirs.tip, theirs.base) == (1, 0, 0, 0)
    assert same(a.link.tip, b.link.tip)
    assert same(a.link.tip, admm.commit(admm.initial_state(SHAPE), 2, ours.u, theirs.u, +1, BETA))


def test_two_generals_in_turn_leave_equal_counts_and_different_states(ends):
    """What comparing counts of commits would get wrong."""
    a, b = ends
    both_commit(a, b, 1)
    a.open(2)
    a.receive(b.open(2))
    b.receive(a.sign_of_life())
    b.give_up()
    b.receive(a.open(3))
    b.open(3)
    a.receive(b.sign_of_life())
    a.give_up()
    assert a.counters.commits == b.counters.commits == 2
    assert (a.link.tip.number, b.link.tip.number) == (2, 3)
    check_common_states(a.link, b.link)
    both_commit(a, b, 4)
    assert a.link.base.number == b.link.base.number == 1
    assert same(a.link.tip, b.link.tip)


def test_one_end_may_commit_many_times_without_the_other(ends):
    """One level of undo is enough however often the other end's acknowledgement is lost."""
    a, b = ends
    both_commit(a, b, 1)
    for k in range(2, 9):
        a.open(k)
        a.receive(b.open(k))
        b.receive(a.sign_of_life())
        b.give_up()
        assert (a.link.base.number, a.link.tip.number) == (1, k)
        check_common_states(a.link, b.link)
    both_commit(a, b, 9)
    assert same(a.link.tip, b.link.tip)


def test_a_repetition_is_answered_once_and_not_applied(ends):
    a, b = ends
    lost, theirs = a.open(1), b.open(1)
    a.receive(theirs)
    tip = a.link.tip
    b.link.tick(RESEND)
    a.receive(b.take())
    assert a.take().kind == "beat"
    a.receive(theirs)
    answer = a.take()
    assert answer.answered
    assert answer.u is lost.u
    b.receive(answer)
    assert same(a.link.tip, b.link.tip)
    b.receive(answer)
    assert not b.outbox, "an answer to an answer"
    assert a.link.tip is tip
    assert b.counters.commits == 1
    assert b.counters.drops["late"] == 1


@pytest.mark.parametrize("moved_on", ["opened the next", "begun the next iteration", "begun and opened"])
def test_an_end_that_waits_is_helped_by_one_that_committed_and_moved_on(ends, moved_on):
    a, b = ends
    a.open(1)
    theirs = b.open(1)
    a.receive(theirs)
    if "begun" in moved_on:
        a.begin(1)
    if "opened" in moved_on:
        b.receive(a.open(2))
        assert b.link.is_open, "the neighbour is past 1, but may have committed it"
        theirs = b.take()
    a.receive(theirs)
    b.receive(a.take())
    assert b.link.tip.number == 1
    assert b.link.outcome is Outcome.COMMITTED


def test_an_end_that_waits_for_what_the_other_gave_up_gives_up_at_once(ends):
    a, b = ends
    a.open(1)
    a.give_up()
    late = b.open(1)
    a.receive(late, 11.0)
    over = a.take()
    assert (over.kind, over.position) == ("over", (0, 1))
    b.receive(over)
    assert b.link.outcome is Outcome.GIVEN_UP
    assert not b.link.silent


def test_an_activation_that_the_neighbour_is_past_is_skipped(ends):
    a, b = ends
    b.receive(a.open(5))
    assert not b.link.approach(3)
    assert (b.take().kind, b.link.outcome) == ("over", Outcome.SKIPPED)
    b.open(5)
    assert b.link.tip.number == 5


def test_a_silent_neighbour_is_skipped_until_it_is_heard(ends):
    """I4."""
    a, b = ends
    a.open(1)
    a.give_up()
    assert a.link.silent
    for k in (2, 3):
        assert not a.link.approach(k)
        over = a.take()
        assert (over.kind, over.k, over.u) == ("over", k, None)
    a.begin(1)
    assert not a.link.approach(1)
    b.receive(a.take())
    a.begin(1)
    b.begin(1)
    a.receive(b.open(7))
    assert not a.link.silent
    assert not a.link.approach(2), "the neighbour is at 7"
    a.take()
    a.open(7)
    assert a.link.tip.number == 7


def test_a_neighbour_that_was_heard_is_not_silent_when_it_misses_a_deadline(ends):
    a, b = ends
    a.open(1)
    a.receive(b.sign_of_life(), 5.0)
    assert a.link.is_open
    a.give_up()
    assert not a.link.silent


def test_two_silent_ends_hear_each_others_skips(ends):
    for end in ends:
        end.open(1)
        end.give_up()
        assert not end.link.approach(2)
    a, b = ends
    skips = a.take(), b.take()
    a.receive(skips[1])
    b.receive(skips[0])
    both_commit(a, b, 3)
    assert same(a.link.tip, b.link.tip)


def test_the_end_of_an_iteration_is_confirmed_once(ends):
    a, b = ends
    a.link.finish(confirm=True)
    b.receive(a.take())
    assert b.link.neighbour_done
    confirmation = b.take()
    a.receive(confirmation)
    assert a.link.neighbour_done
    assert not a.outbox


def test_what_was_refused_stays_refused(ends):
    a, b = ends
    ours = a.open(1)
    b.receive(ours)
    b.link.refuse()
    busy = b.take()
    a.link.tick(RESEND)
    for message in (a.take(), ours):
        b.receive(message)
        again = b.take()
        assert (again.kind, again.position) == (busy.kind, busy.position)
    assert b.link.pending is None


def test_busy_refuses_the_open_activation_only(ends):
    a, b = ends
    b.receive(a.open(1))
    b.link.refuse()
    busy = b.take()
    a.receive(busy)
    assert a.link.outcome is Outcome.REFUSED
    a.open(2)
    a.receive(busy)
    assert a.link.is_open
