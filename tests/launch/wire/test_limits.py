"""Limits on sockets and open files: what a graph needs is allowed, raised, or refused in one line."""

from __future__ import annotations

import os
import resource

import pytest
import zmq

from matrpo.errors import ConfigError
from matrpo.launch.wire.limits import check_limits, make_context
from matrpo.launch.wire.sockets import make_socket
from matrpo.topology import make_graph


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limits on open files, of which the last counts: that which the system gives, and what it is raised to."""
    given: list[tuple[int, int]] = [(256, 900)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: given[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: given.append(limit))
    return given


def test_a_context_has_sockets_for_all_that_a_process_dials() -> None:
    with make_context(dialled=400, accepted=0) as context:
        assert context.get(zmq.MAX_SOCKETS) >= 3 * 400
    with zmq.Context() as usual, make_context(dialled=2, accepted=2) as context:
        assert context.get(zmq.MAX_SOCKETS) == usual.get(zmq.MAX_SOCKETS)


@pytest.mark.parametrize(("together", "milliseconds"), [(1, 2000), (16, 2000), (400, 50_000)])
def test_where_many_share_the_cores_connections_outlive_a_longer_silence(
    monkeypatch: pytest.MonkeyPatch, together: int, milliseconds: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with (
        make_context(dialled=1, accepted=1, together=together) as context,
        make_socket(context, zmq.DEALER, "ipc:///dev/null", 64, 1) as socket,
    ):
        assert [socket.getsockopt(end) for end in (zmq.HEARTBEAT_TIMEOUT, zmq.HEARTBEAT_TTL)] == [milliseconds] * 2


def test_what_is_needed_is_raised_as_far_as_the_system_lets_it(limits: list[tuple[int, int]]) -> None:
    check_limits(make_graph("ring", 12, 0), 1)
    assert limits == [(256, 900)], "there is room"
    check_limits(make_graph("complete", 64, 0), 1)
    assert limits[-1] == (900, 900)


@pytest.mark.parametrize(
    ("topology", "agents", "who"), [("star", 400, "agent 0, with 399 neighbours"), ("ring", 900, "")]
)
@pytest.mark.usefixtures("limits")
def test_what_the_system_does_not_allow_is_refused(topology: str, agents: int, who: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_limits(make_graph(topology, agents, 0), 1)
    text = str(caught.value)
    assert text.startswith(who)
    assert "\n" not in text
    assert "but the system allows 900; raise that with `ulimit -Hn" in text
