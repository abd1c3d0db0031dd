"""Which start an agent acts on, and that all servers come to the same one."""

from __future__ import annotations

import random
from typing import Any

import pytest

from matrpo.decentralized.lock_step.membership import Membership
from matrpo.decentralized.lock_step.messages import Observation
from matrpo.decentralized.lock_step.starts import Starts

N = 3


def start(iteration: int, attempt: int) -> Observation:
    step: Any = None
    return Observation(attempt, iteration, 0, step)


def test_it_waits_for_the_same_start_from_all() -> None:
    starts = Starts(2)
    assert (starts.agreed(1), starts.behind(1), starts.target(1)) == ([], [0, 1], (1, 0))
    starts.hear(1, start(1, 1))
    assert (starts.agreed(1), starts.behind(1), starts.target(1)) == ([], [0], (1, 1))
    starts.hear(0, start(1, 1))
    assert starts.agreed(1) == [start(1, 1)] * 2
    assert not starts.outdate(1, 1)


def test_a_later_attempt_or_iteration_of_one_server_outdates_the_others() -> None:
    starts = Starts(2)
    for server in range(2):
        starts.hear(server, start(4, 1))
    starts.hear(1, start(4, 2))
    assert starts.outdate(4, 1)
    assert starts.outdate(5, 1), "whoever has learnt from 4 has to tell the server"
    assert starts.target(5) == (5, 2)
    assert starts.behind(5) == [0, 1]
    starts.hear(0, start(5, 2))
    assert (starts.agreed(5), starts.behind(5)) == ([], [1])
    starts.hear(1, start(5, 3))
    starts.hear(1, start(4, 2))
    assert starts.target(5) == (5, 3), "what comes late changes nothing"
    starts.hear(0, start(5, 3))
    assert starts.agreed(5) == [start(5, 3)] * 2


class Server:
    """What a server does about hellos, without environments: see `EnvironmentServer`."""

    def __init__(self) -> None:
        self.now = (1, 1)
        self.membership = Membership(N)
        self.broken = False

    def hear(self, agent: int, wanted: int, attempt: int) -> None:
        self.membership.hello(agent, 1, wanted, attempt)
        self.broken |= wanted > self.now[0] or attempt > self.now[1]

    def crash(self) -> None:
        """Come back from a checkpoint, knowing no agent."""
        self.membership, self.broken = Membership(N), True
        self.now = (1, self.now[1])

    def begin_again(self) -> None:
        if self.broken and not self.membership.missing:
            iteration = max(self.now[0], self.membership.latest_wanted())
            self.now = (iteration, max(self.now[1] + 1, self.membership.latest_attempt()))
            self.broken = False


@pytest.mark.parametrize("seed", range(200))
def test_servers_that_crash_at_any_time_and_hear_in_any_order_come_to_the_same_start(seed: int) -> None:
    random_ = random.Random(seed)
    servers = [Server() for _ in range(random_.choice([2, 3, 4]))]
    agents = [Starts(len(servers)) for _ in range(N)]
    wanted = [random_.choice([4, 5]) for _ in range(N)]

    def exchange() -> None:
        agent, number = random_.randrange(N), random_.randrange(len(servers))
        if random_.random() < 0.5 and not servers[number].broken:
            agents[agent].hear(number, start(*servers[number].now))
        else:
            servers[number].hear(agent, *agents[agent].target(wanted[agent]))
        servers[random_.randrange(len(servers))].begin_again()

    for _ in range(30):
        exchange()
        if random_.random() < 0.2:
            servers[random_.randrange(len(servers))].crash()
    before = max(server.now[1] for server in servers)
    for _ in range(2000):
        exchange()
    found = [agent.agreed(want) for agent, want in zip(agents, wanted, strict=True)]
    [target] = {agent.target(want) for agent, want in zip(agents, wanted, strict=True)}
    assert found == [[start(*target)] * len(servers)] * N
    assert target[0] == max(wanted)
    assert target[1] <= before + 3 * len(servers), "they do not chase each other"
