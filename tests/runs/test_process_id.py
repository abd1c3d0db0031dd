"""A process's one identity: its names on the screen, on the command line, on disk and among the keys."""

from __future__ import annotations

import pytest

from matrpo.runs.process_id import ProcessId, in_order_of_ports


@pytest.mark.parametrize(
    ("process", "name", "slug", "folder", "key"),
    [
        (ProcessId.server(), "env-server", "env", "env", "env"),
        (ProcessId.server(2), "env-server 2", "env-2", "env-2", "env"),
        (ProcessId.trainer(), "trainer", "trainer", "trainer", "trainer"),
        (ProcessId.agent(0), "agent 0", "agent-00", "agents/00", "agent-00"),
        (ProcessId.agent(117), "agent 117", "agent-117", "agents/117", "agent-117"),
    ],
)
def test_what_a_process_is_called(process: ProcessId, name: str, slug: str, folder: str, key: str) -> None:
    assert (process.name, process.slug, process.folder, process.key) == (name, slug, folder, key)


@pytest.mark.parametrize(
    ("process", "arguments"),
    [
        (ProcessId.server(), ["env-server"]),
        (ProcessId.server(1), ["env-server", "--id", "1"]),
        (ProcessId.agent(0), ["agent", "--id", "0"]),
    ],
)
def test_what_starts_a_process(process: ProcessId, arguments: list[str]) -> None:
    assert process.arguments == arguments


def test_processes_are_sorted_as_they_are_listed_and_are_equal_by_value() -> None:
    listed = [ProcessId.server(), ProcessId.server(1), ProcessId.trainer(), *map(ProcessId.agent, range(12))]
    assert sorted(listed, reverse=True) == listed[::-1]
    assert len({*listed, ProcessId.server(1), ProcessId.agent(1)}) == len(listed)


def test_a_further_server_moves_no_other_port() -> None:
    names = [process.name for process in in_order_of_ports(2, 3)]
    assert names == ["env-server", "agent 0", "agent 1", "env-server 1", "env-server 2"]
    assert in_order_of_ports(2, 3)[:3] == in_order_of_ports(2, 1)
