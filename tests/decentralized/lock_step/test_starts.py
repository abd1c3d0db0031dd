"""Which start an agent acts on."""

from __future__ import annotations

from typing import Any

from matrpo.decentralized.lock_step.messages import Observation
from matrpo.decentralized.lock_step.starts import Starts


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
