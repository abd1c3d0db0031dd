"""Limits on the sockets and open files of a process: what the graph needs, and whether the system allows that."""

from __future__ import annotations

import contextlib
import resource
from typing import Any

import zmq

from matrpo.errors import ConfigError
from matrpo.topology import CommunicationGraph

_SOCKETS_PER_DIAL = 3
"""The socket that dials, and the pair that reports on its connection; libzmq opens a file for each."""

_SPARE_SOCKETS = 16
"""Sockets besides those that dial: the one that listens, and its authenticator's."""

_SPARE_FILES = 64
"""Open files besides sockets and connections: libraries, logs, pipes, strangers at the door."""

_FILES_PER_CHILD = 3
"""Open files of the launcher for each process that it has started."""


def make_context(dialled: int, accepted: int) -> zmq.Context[Any]:
    """A context with room for the sockets of one process, whose limit on open files is raised if it must be.

    Args:
        dialled: how many processes this one dials.
        accepted: how many dial it.

    Raises:
        ConfigError: the system does not allow that many.
    """
    _need("this process", _files(dialled, accepted))
    context: zmq.Context[Any] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, max(_sockets(dialled), context.get(zmq.MAX_SOCKETS)))
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
