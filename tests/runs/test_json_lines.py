"""Files of JSON objects that were cut off in a line, or edited by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from matrpo.errors import ConfigError
from matrpo.runs.environment_tail import EnvironmentTail
from matrpo.runs.json_lines import LineTail, MetricsTail, append_line


@pytest.mark.parametrize("since", [[], [{"n": 2}], [{"n": 2}, {"n": 3, "text": "longer than before"}]])
def test_lines_that_are_written_in_place_of_others_are_followed(tmp_path: Path, since: list[dict]) -> None:
    path = tmp_path / "file.jsonl"
    for n in (1, 2, 3):
        append_line(path, {"n": n, "text": "x" * n})
    tail = LineTail(path)
    assert [line["n"] for line in tail.poll()] == [1, 2, 3]
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    for line in since:
        append_line(path, line)
    tail.poll()
    append_line(path, {"n": 4})
    append_line(path, {"n": 5})
    assert [line["n"] for line in tail.poll()][-2:] == [4, 5]
    assert tail.poll() == []


@pytest.mark.parametrize("cut_off", ["", '{"a": ', '{"a": 1}', "\n"])
def test_what_is_appended_to_a_line_that_was_cut_off_is_a_line_of_its_own(tmp_path: Path, cut_off: str) -> None:
    path = tmp_path / "lines"
    path.write_text('{"a": 0}\n' + cut_off)
    append_line(path, {"a": 2})
    append_line(path, {"a": 3})
    lines = LineTail(path).poll()
    assert [line["a"] for line in lines if line["a"] != 1] == [0, 2, 3]


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        '{"iteration": null}',
        '{"iteration": "1"}',
        '{"iteration": 0}',
        '{"iteration": 1.0}',
        '{"iteration": 1e400}',
        '{"iteration": true}',
        '{"iteration": 9007199254740992}',
        '{"iteration": 1, "steps": -1}',
        '{"iteration": 1, "steps": 0.5}',
        '{"iteration": 1, "time": null}',
        '{"iteration": 1, "time": 1e400}',
        '{"iteration": 1, "kl": NaN}',
        '{"iteration": 1, "kl": "x"}',
        '{"iteration": 1, "kl": [1]}',
        '{"iteration": 1, "bytes_sent": 1' + "0" * 40 + "}",
        '{"iteration": 1, "team_return_mean": {}}',
        '{"iteration": 1, "refused": {"malformed": "x"}}',
        '{"iteration": 1, "links": []}',
        '{"iteration": 1, "links": {"x": {}}}',
        '{"iteration": 1, "links": {"0": 1}}',
        '{"iteration": 1, "links": {"0": {"commits": {}}}}',
        '{"iteration": 1, "links": {"0": {"rejected": 1}}}',
        '{"iteration": 1, "links": {"0": {"states": {"1": []}}}}',
        '{"iteration": 1, "links": {"0": {"state": 1e400}}}',
    ],
)
def test_metrics_that_no_process_writes_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1, "kl": null}\nnot json\n3\n[]\n')
    tail = MetricsTail(path)
    assert tail.take() == [{"iteration": 1, "kl": None}]
    with open(path, "a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match=f"{path} has a line with the bad value"):
        tail.take()


def test_shares_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    paths = [tmp_path / "env.jsonl", tmp_path / "env-1.jsonl"]
    for path in paths:
        path.write_text('{"iteration": 3, "agent_return_mean": {"a": 0}, "share": {"episodes": [[1, 2], [3]]}}\n')
    with pytest.raises(ConfigError, match=r"the lines of iteration 3 in .*env\.jsonl, .*env-1\.jsonl do not fit"):
        EnvironmentTail(paths).poll()
