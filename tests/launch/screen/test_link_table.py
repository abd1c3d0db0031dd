from __future__ import annotations

from typing import Any

from matrpo.launch.screen.link_table import count_states, link_table


def end(**changes: Any) -> dict[str, Any]:
    link = {"state": "up", "rtt_ms_min": 1.0, "rtt_ms_median": 2.0, "commits": 5, "bytes_sent": 100, "skips": 1}
    return link | {"messages_sent": 3, "resends": 0, "give_ups": 0, "unsent": 0, "rejected": {}} | changes


def test_a_link_is_what_its_two_ends_say() -> None:
    other = end(state="suspect", rtt_ms_min=0.5, rtt_ms_median=None, bytes_sent=50, rejected={"late": 2, "payload": 0})
    [link] = link_table([{"links": {"1": end()}}, {"links": {"0": other}}], set())
    assert link == {
        "ends": [0, 1],
        "state": "suspect",
        "rtt_ms_min": 0.5,
        "rtt_ms_median": 2.0,
        "commits": 5,
        "bytes_sent": 150,
        "messages_sent": 6,
        "resends": 0,
        "skips": 2,
        "give_ups": 0,
        "quarantines": 0,
        "unsent": 0,
        "rejected": {"late": 2},
    }


def test_an_absent_agents_links_are_down_whatever_its_last_line_says() -> None:
    lines = [{"links": {"1": end()}}, {"links": {"0": end(), "2": end()}}, {"links": {"1": end(skips=40)}}]
    table = link_table(lines, {2})
    assert [(link["ends"], link["state"], link["skips"]) for link in table] == [([0, 1], "up", 2), ([1, 2], "down", 1)]
    assert count_states(table) == {"up": 1, "down": 1}


def test_a_run_in_one_process_has_links_without_a_state() -> None:
    bare = {"commits": 5, "rejected": {}}
    [link] = link_table([{"links": {"1": bare}}, {"links": {"0": bare}}], set())
    assert (link["state"], link["commits"], link["bytes_sent"]) == (None, 5, 0)
    assert count_states([link]) == {}
    assert link_table([{}, {}], set()) == []
