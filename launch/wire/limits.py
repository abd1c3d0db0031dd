"""Limits on the sockets, open files and silences of a process: what the graph needs, and what the system allows."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Any

import zmq

from matrpo.errors import ConfigError
from matrpo.topology import CommunicationGraph

HEARTBEAT_ENDS = (zmq.HEARTBEAT_TIMEOUT, zmq.HEARTBEAT_TTL)
"""The options that say after how long without a heartbeat a connection ends, seen from either side."""

SILENCE_MS = 2000
"""That time in milliseconds, unless the context has another."""

_SOCKETS_PER_DIAL = 3
"""The socket that dials, and the pair that reports on its connection; libzmq opens a file for each."""

_PER_CORE = 8
"""Processes that a core serves without keeping one waiting for much of `SILENCE_MS`."""

_SPARE_SOCKETS = 16
"""Sockets besides those that dial: the one that listens, and its authenticator's."""

_SPARE_FILES = 64
"""Open files besides sockets and connections: libraries, logs, pipes, strangers at the door."""

_FILES_PER_CHILD = 3
"""Open files of the launcher for each process that it has started."""


def make_context(dialled: int, accepted: int, together: int = 1) -> zmq.Context[Any]:
    """A context with room for the sockets of one process, whose limit on open files is raised if it must be.

    Args:
        dialled: how many processes this one dials.
        accepted: how many dial it.
        together: how many processes of the run share this machine's cores. Among many, a connection outlives a longer
            silence.

    Raises:
        ConfigError: the system does not allow that many.
    """
    _need("this process", _files(dialled, accepted))
    context: zmq.Context[Any] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, max(_sockets(dialled), context.get(zmq.MAX_SOCKETS)))
    crowd = together / (_PER_CORE * (os.cpu_count() or 1))
    for option in HEARTBEAT_ENDS:
        context.setsockopt(option, round(SILENCE_MS * max(1.0, crowd)))
    return context


def allow_open_files() -> None:
    """Raise the limit on open files as far as the system lets a process do it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_limits(graph: CommunicationGraph, num_servers: int) -> None:
    """Check that this machine allows the processes of a run their open files, before any is started.

    Raises:
        ConfigError: it does not. The text names the process, the limit, and how to raise it.
    """
    needs = []
    for agent in range(graph.num_agents):
        neighbours = graph.neighbours(agent)
        dialled = sum(other > agent for other in neighbours)
        name = f"agent {agent}, with {len(neighbours)} neighbours"
        needs.append((_files(dialled + num_servers, len(neighbours) - dialled), name))
    needs.append((_files(0, graph.num_agents), f"an environment server of {graph.num_agents} agents"))
    started = graph.num_agents + num_servers
    needs.append((_FILES_PER_CHILD * started + _SPARE_FILES, f"the launcher of {started} processes"))
    files, who = max(needs)
    _need(who, files)


def _sockets(dialled: int) -> int:
    return _SOCKETS_PER_DIAL * dialled + _SPARE_SOCKETS


def _files(dialled: int, accepted: int) -> int:
    return _sockets(dialled) + dialled + accepted + _SPARE_FILES


def _need(who: str, files: int) -> None:
    """Raise the limit on open files where it is too low, or refuse."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= files:
        return
    if hard != resource.RLIM_INFINITY and hard < files:
        raise ConfigError(
            f"{who}: up to {files} open files are needed, but the system allows {hard}; "
            f"raise that with `ulimit -Hn {files}` as root, or by nofile in /etc/security/limits.conf"
        )
    allow_open_files()
