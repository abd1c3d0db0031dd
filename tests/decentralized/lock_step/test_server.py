"""An environment server's side of the lock step, message by message, and with agents' sides to their end."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from matrpo.decentralized.lock_step.client import REPEAT, Client
from matrpo.decentralized.lock_step.messages import Action, Bye, Hello, Observation, Outdated
from matrpo.decentralized.lock_step.rules import Rules
from matrpo.decentralized.lock_step.server import Server

N, T, ITERATIONS = 3, 2, 3
STEPS: Any = [None] * N
ACTION = np.zeros((1, 1), np.float32)


class Table:
    """A server, and what it says to whom; time stands still unless a test moves it."""

    def __init__(self, **changes: Any) -> None:
        self.rules = Rules(**{"num_agents": N, "length": T, "iterations": ITERATIONS} | changes)
        self.server = Server(self.rules, STEPS, 1, 1, 0, False)
        self.now = 0.0

    def turn(self) -> list[tuple[int, Any]]:
        """What is said after a tick, and after the step if all have acted: (agent, (iteration, t) or another word)."""
        said: list[tuple[int, Any]] = []
        self.server.tick(self.now)
        if self.server.complete:
            self.server.stepped(STEPS)
        for _, agent, answer in self.server.take_outbox():
            is_step = isinstance(answer, Observation)
            said.append((agent, (answer.iteration, answer.t) if is_step else answer))
        return said

    def hello(self, agent: int, iteration: int = 1, incarnation: int = 1, attempt: int = 0, at: bytes = b"") -> Any:
        self.server.receive(at or b"%d" % agent, Hello(agent, incarnation, iteration, attempt))
        return self.turn()

    def act(self, agent: int, iteration: int, t: int) -> Any:
        self.server.receive(b"%d" % agent, Action(agent, self.server.attempt, iteration, t, ACTION))
        return self.turn()

    def bye(self, agent: int) -> Any:
        self.server.receive(b"%d" % agent, Bye(agent))
        return self.turn()

    def begin(self) -> None:
        for agent in range(N):
            self.hello(agent)

    def texts(self) -> str:
        return "\n".join([text for _, text in self.server.take_news()] + self.server.take_refused())


def everyone(label: tuple[int, int], agents: Any = range(N)) -> list[tuple[int, Any]]:
    return [(agent, label) for agent in agents]


def test_the_normal_exchange() -> None:
    table = Table()
    assert [table.hello(agent) for agent in range(N)] == [[], [], everyone((1, 0))]
    for iteration in range(1, ITERATIONS + 1):
        for t in range(T):
            assert [table.act(agent, iteration, t) for agent in range(N)] == [[], [], everyone((iteration, t + 1))]
    assert not table.server.over
    for agent in range(N):
        assert table.bye(agent) == []
    assert table.server.over


def test_a_lost_message_is_asked_for_again() -> None:
    table = Table()
    table.begin()
    assert table.hello(0) == everyone((1, 0), [0]), "its action is not here"
    table.act(0, 1, 0)
    assert table.hello(0) == [], "it is"
    assert table.act(0, 1, 1) == [], "that step is not made"


def test_an_older_start_of_an_agent_is_told_of_the_later_one() -> None:
    table = Table()
    table.hello(0, incarnation=4)
    assert table.hello(0, incarnation=1, at=b"elsewhere") == [(0, Outdated(4))]


def test_who_comes_with_the_number_of_another_that_has_acted_under_its_id_is_answered() -> None:
    """An agent whose id has lied: what it counts up to is what the liar has said."""
    table = Table()
    table.server = Server(table.rules, STEPS, 2, 1, 1, True)
    for agent in range(N):
        table.hello(agent, iteration=2)
    table.act(2, 2, 0)
    assert table.hello(2, iteration=2, attempt=1) == [], "its action is here"
    assert table.hello(2, iteration=1, attempt=1) == everyone((2, 0), [2]), "it has not acted in what it does not want"
    table.act(0, 2, 0)
    assert table.act(1, 2, 0) == [], "the other's action is not its own"
    assert table.act(2, 2, 0) == everyone((2, 1))


def test_a_silent_agent_costs_its_deadline_and_is_kept_out_for_as_long_as_it_has_cost() -> None:
    table = Table(silence=60.0)
    table.begin()
    table.act(0, 1, 0)
    table.now = 59.0
    assert table.turn() == []
    table.act(1, 1, 0)
    table.now = 118.0
    assert table.turn() == []
    table.now = 119.0
    assert table.turn() == everyone((1, 1), [0, 1])
    assert "agent 2 has done nothing for 60 s at step (0, 2)" in table.texts()
    assert table.hello(2) == [], "the iteration runs"
    for agent in range(2):
        table.act(agent, 1, 1)
    assert table.server.membership.taking_part == {0, 1}, "it is kept out"
    table.now += 60.0
    for t in range(T):
        for agent in range(2):
            table.act(agent, 2, t)
    assert table.server.membership.taking_part == {0, 1, 2}


def test_who_has_acted_and_said_goodbye_keeps_nobody_from_taking_its_time() -> None:
    table = Table(num_agents=2, silence=60.0)
    table.server = Server(table.rules, STEPS, 1, 1, 0, False)
    for agent in range(2):
        table.hello(agent)
    table.act(0, 1, 0)
    assert table.server.next_event() == 60.0
    table.bye(0)
    table.now = 60.0
    table.turn()
    assert table.server.membership.taking_part >= {1}


@pytest.mark.parametrize("rule", ["noop", "wait", "abort"])
def test_the_rules_for_a_lost_agent(rule: str) -> None:
    table = Table(on_loss=rule)
    table.begin()
    for agent in range(2):
        table.act(agent, 1, 0)
    table.server.lose(b"2")
    assert table.turn() == (everyone((1, 1), [0, 1]) if rule == "noop" else [])
    assert table.server.end == ("agent 2 is lost, and on_agent_loss is abort" if rule == "abort" else None)


def test_a_server_that_loses_all_at_its_end_waits_for_one_to_come_back_and_not_for_ever() -> None:
    table = Table(num_agents=1, length=1, iterations=1, patience=9.0)
    table.hello(0)
    table.server.tick(1.0)
    assert table.act(0, 1, 0) == everyone((1, 1), [0])
    table.server.lose(b"0")
    assert (table.server.over, table.server.next_event()) == (False, 9.0)
    assert table.hello(0) == everyone((2, 0), [0]), "it has lost the last iteration, and can say goodbye"
    table.server.lose(b"0")
    table.now = 9.0
    table.turn()
    assert table.server.over


def test_a_server_follows_one_agent_alone_that_is_far_ahead_an_iteration_at_a_time() -> None:
    table = Table(num_agents=2, num_servers=2, iterations=9)
    table.server = Server(table.rules, STEPS, 1, 1, 0, True)
    for _ in range(9):
        said = table.hello(0, iteration=5, attempt=1)
        table.now += table.rules.patience
        if (0, (5, 0)) in [*said, *table.turn()]:
            break
    assert (table.server.iteration, table.server.membership.taking_part) == (5, {0})


def test_an_agent_that_is_not_believed_does_not_make_attempts_grow_by_saying_so() -> None:
    """Agent 1 lies that it has heard of a late attempt: it is not admitted, and agent 0 is not alone."""
    table = Table(num_agents=2, num_servers=2, iterations=9)
    table.server = Server(table.rules, STEPS, 3, 1, 2, True)
    table.hello(1, iteration=1, attempt=2**31)
    table.hello(0, iteration=4, attempt=1)
    attempt = table.server.attempt
    for _ in range(5):
        table.hello(0, iteration=4, attempt=attempt)
    assert (table.server.iteration, table.server.attempt) == (3, attempt)
    table.server.lose(b"1")
    table.hello(0, iteration=4, attempt=attempt)
    table.now += table.rules.patience
    assert (0, (4, 0)) in table.turn(), "it is alone, and believed"


@pytest.mark.parametrize("rule", ["noop", "wait"])
def test_at_the_end_a_late_agent_that_has_heard_of_another_attempt_is_believed_where_all_are_waited_for(
    rule: str,
) -> None:
    """Agent 1 has finished; agent 0 comes back, from another server that was started again."""
    table = Table(num_agents=2, num_servers=2, length=1, iterations=1, on_loss=rule)
    for agent in range(2):
        table.hello(agent)
    for agent in range(2):
        table.act(agent, 1, 0)
    table.server.lose(b"0")
    table.bye(1)
    if rule == "noop":
        assert table.server.over, "those that are gone are not waited for"
    said = table.hello(0, iteration=2, incarnation=2, attempt=2)
    assert ((0, (2, 0)) in [*said, *table.turn()], table.server.attempt) == (rule == "wait", 1 + (rule == "wait"))


LIES = [0, 1, 4, 5, 2**31, 2**52, 2**53 - 1]


@pytest.mark.parametrize("iteration", LIES)
@pytest.mark.parametrize("attempt", [0, 1, 2, 2**31, 2**52, 2**53 - 1])
def test_what_one_agent_says_moves_nobody_else(iteration: int, attempt: int) -> None:
    table = Table()
    table.begin()
    table.act(0, 1, 0)
    table.hello(2, iteration, attempt=attempt)
    table.server.lose(b"2")
    assert table.act(1, 1, 0) == everyone((1, 1), [0, 1])
    assert (table.server.attempt, table.server.iteration) == (1, 1)


@pytest.mark.parametrize("seed", range(60))
def test_servers_that_crash_at_any_time_and_hear_in_any_order_come_to_the_same_start(seed: int) -> None:
    dice = random.Random(seed)
    num_servers = dice.choice([2, 3, 4])
    rules = Rules(N, T, 9, num_servers)
    servers = [Server(rules, STEPS, 4, 1, 3, True) for _ in range(num_servers)]
    clients = [Client(agent, 1, num_servers) for agent in range(N)]
    for client in clients:
        client.wanted = 4
    now = 0.0

    def exchange() -> None:
        agent, number = dice.randrange(N), dice.randrange(num_servers)
        clients[agent].ask_to_begin(again=dice.random() < 0.1)
        for server, message in clients[agent].take_outbox():
            servers[server].receive(b"%d" % agent, message)
        servers[number].tick(now)
        for _, receiver, answer in servers[number].take_outbox():
            clients[receiver].receive(number, answer)

    for _ in range(30):
        exchange()
        if dice.random() < 0.2:
            number = dice.randrange(num_servers)
            servers[number] = Server(rules, STEPS, 4, servers[number].attempt + 1, 3, True)
    before = max(server.attempt for server in servers)
    for _ in range(2000):
        now += REPEAT / 100
        exchange()
    starts = [client.agreed() for client in clients]
    assert all(len(agreed) == num_servers for agreed in starts)
    [(iteration, attempt)] = {(start.iteration, start.attempt) for agreed in starts for start in agreed}
    assert iteration == 4
    assert attempt <= before + 3 * num_servers, "they do not chase each other"
