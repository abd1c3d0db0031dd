"""The metrics of several environment servers, read as if one had written them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matrpo.runs.environment_tail import EnvironmentTail
from matrpo.runs.process_directory import ProcessDirectory


def line(iteration: int, time: float, returns: list[float]) -> dict[str, Any]:
    episodes = [[0, b, 10, value] for b, value in enumerate(returns)]
    share = {"episodes": episodes, "moments": [[1.0, 0.0, 4.0]] * 2, "statistics": []}
    return {"iteration": iteration, "time": time, "agent_return_mean": {"a": 0.0}, "share": share}


def test_an_iteration_is_told_once_all_have_written_of_it(tmp_path: Path) -> None:
    first, second = (ProcessDirectory(tmp_path / name) for name in ("env", "env-1"))
    tail = EnvironmentTail([first.metrics_path, second.metrics_path])
    assert tail.poll() == []
    first.log_metrics(line(1, 1.0, [1.0, 2.0]))
    first.log_metrics(line(2, 2.0, [5.0, 6.0]))
    assert tail.poll() == []
    second.log_metrics(line(1, 1.5, [3.0, 6.0]))
    [joined] = tail.poll()
    assert (joined["iteration"], joined["time"], joined["episodes"]) == (1, 1.5, 4)
    assert (joined["team_return_mean"], joined["agent_return_mean"], joined["reward_scale"]) == (3.0, {"a": 3.0}, 2.0)
    assert tail.poll() == []
    second.log_metrics(line(3, 3.0, []))
    first.log_metrics(line(3, 3.0, []))
    assert [(joined["iteration"], joined["team_return_mean"]) for joined in tail.poll()] == [(3, None)]


def test_what_one_server_wrote_stays_as_it_is(tmp_path: Path) -> None:
    process = ProcessDirectory(tmp_path / "env")
    process.log_metrics({"iteration": 1, "team_return_mean": 4.0})
    assert EnvironmentTail([process.metrics_path]).poll() == [{"iteration": 1, "team_return_mean": 4.0}]
