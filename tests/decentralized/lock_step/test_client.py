"""An agent's side of the lock step, message by message."""

from __future__ import annotations

from typing import Any

import pytest

from matrpo.decentralized.lock_step.client import REPEAT, RETRY, Client
from matrpo.decentralized.lock_step.messages import Action, Bye, Hello, Observation, Outdated, Stop

NOTHING: Any = None


def observation(iteration: int, t: int, attempt: int = 1) -> Observation:
    return Observation(attempt, iteration, t, NOTHING)


def action(iteration: int, t: int, attempt: int = 1) -> Action:
    return Action(0, attempt, iteration, t, NOTHING)


def client_in(iteration: int, servers: int = 1, attempt: int = 1) -> Client:
    """An agent that has been told of the start of an iteration by all servers."""
    client = Client(0, 1, servers)
    client.wanted = iteration
    for server in range(servers):
        client.receive(server, observation(iteration, 0, attempt))
    client.take_outbox()
    assert client.agreed() == [observation(iteration, 0, attempt)] * servers
    return client


def test_it_says_hello_once_for_each_start_that_it_hears_of_and_to_all_again() -> None:
    client = Client(0, 3, 2)
    client.wanted = 4
    client.ask_to_begin(again=False)
    assert client.take_outbox() == [(0, Hello(0, 3, 4, 0)), (1, Hello(0, 3, 4, 0))]
    client.ask_to_begin(again=False)
    assert client.take_outbox() == []
    client.receive(1, observation(4, 0, attempt=7))
    assert client.take_outbox() == [(0, Hello(0, 3, 4, 7))], "the one that is behind hears of it at once"
    client.ask_to_begin(again=False)
    assert client.take_outbox() == []
    client.ask_to_begin(again=True)
    assert client.take_outbox() == [(0, Hello(0, 3, 4, 7)), (1, Hello(0, 3, 4, 7))], "any may have lost it since"


def test_an_action_is_repeated_with_a_hello_until_it_is_answered() -> None:
    client = client_in(1)
    client.act(0, action(1, 0), now=10.0)
    assert client.take_outbox() == [(0, action(1, 0))]
    client.tick(10.0 + REPEAT - 0.1)
    assert client.take_outbox() == []
    assert client.next_event() == 10.0 + REPEAT
    client.tick(10.0 + REPEAT)
    assert client.take_outbox() == [(0, Hello(0, 1, 1, 1)), (0, action(1, 0))]
    client.receive(0, observation(1, 0))
    assert client.take_outbox() == [(0, action(1, 0))], "the server has not got it"
    client.receive(0, observation(1, 1))
    assert client.take_answers() == {0: observation(1, 1)}
    assert client.take_answers() == {}
    assert client.next_event() == float("inf")
    client.receive(0, observation(1, 1))
    assert client.take_answers() == {}, "it was answered"


@pytest.mark.parametrize(("connected", "later"), [(True, RETRY), (False, REPEAT)])
def test_what_could_not_be_sent_is_tried_again_without_a_hello(connected: bool, later: float) -> None:
    client = client_in(1)
    client.act(0, action(1, 0), now=0.0)
    [(server, message)] = client.take_outbox()
    client.not_sent(server, message, connected, now=1.0)
    assert client.next_event() == 1.0 + later
    client.tick(1.0 + later)
    assert client.take_outbox() == [(0, action(1, 0))]


@pytest.mark.parametrize("heard", [observation(1, 1, attempt=2), observation(2, 1), observation(1, 2)])
def test_what_answers_another_action_is_no_answer(heard: Observation) -> None:
    client = client_in(1)
    client.act(0, action(1, 0), now=0.0)
    client.receive(0, heard)
    assert client.take_answers() == {}
    assert not client.broken()


@pytest.mark.parametrize("start", [observation(1, 0, attempt=2), observation(2, 0)])
def test_a_later_start_breaks_the_iteration(start: Observation) -> None:
    client = client_in(1, servers=2)
    for server in range(2):
        client.act(server, action(1, 0), now=0.0)
    assert not client.broken()
    client.receive(1, start)
    assert client.broken()
    assert not client.broken(), "its actions are dropped"
    assert client.agreed() == []
    client.receive(0, start)
    assert client.agreed() == [start, start]


def test_a_server_that_knows_of_a_later_start_of_the_agent_outdates_it() -> None:
    client = Client(0, 3, 2)
    client.receive(1, Outdated(3))
    assert client.outdated is None
    client.receive(1, Outdated(5))
    assert client.outdated == 5


def test_who_is_told_of_a_step_that_it_has_not_acted_in_has_lost_its_folder() -> None:
    client = Client(0, 1, 1)
    client.receive(0, observation(3, 2))
    assert client.outdated == 1
    client = client_in(3)
    client.act(0, action(3, 0), now=0.0)
    client.receive(0, observation(3, 1))
    assert client.outdated is None


def test_a_stop_ends_it_and_all_that_have_finished_do() -> None:
    client = client_in(1, servers=2)
    client.receive(0, Stop(finished=False))
    assert client.stopped
    client = client_in(3, servers=2)
    client.say_goodbye()
    assert client.take_outbox() == [(0, Hello(0, 1, 3, 1)), (0, Bye(0)), (1, Hello(0, 1, 3, 1)), (1, Bye(0))]
    client.receive(0, Stop(finished=True))
    assert not client.over
    client.receive(1, Stop(finished=True))
    assert client.over
    assert not client.stopped


def test_whoever_still_needs_a_server_that_has_finished_says_goodbye_to_the_others() -> None:
    client = client_in(2, servers=2)
    for server in range(2):
        client.act(server, action(2, 0), now=0.0)
    client.take_outbox()
    client.receive(1, Stop(finished=True))
    assert client.broken()
    assert client.agreed() == []
    client.ask_to_begin(again=False)
    assert client.over
    assert (0, Bye(0)) in client.take_outbox()


def test_a_server_that_is_silent_when_another_has_finished_is_asked_twice() -> None:
    client = client_in(2, servers=2)
    client.act(1, action(2, 0), now=0.0)
    client.receive(0, Stop(finished=True))
    assert not client.broken(), "its answer may be on the way"
    client.tick(REPEAT)
    assert client.broken()


def test_a_hello_at_the_end_says_goodbye_too() -> None:
    client = client_in(3)
    client.say_goodbye()
    client.take_outbox()
    client.hello(0)
    assert client.take_outbox() == [(0, Hello(0, 1, 3, 1)), (0, Bye(0))]
