"""`matrpo plan` as it is typed."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from click.testing import CliRunner
from planned import CONSTANTS

from matrpo.envs.registry import task_spec
from matrpo.errors import ConfigError
from matrpo.experiments.planning.command import plan
from matrpo.experiments.planning.cost_model import LIMITS, Placement, predict
from matrpo.experiments.planning.relief import choose, reliefs
from matrpo.launch.cli import cli
from matrpo.runs.graph_settings import build_graph, resolve_graph_settings
from matrpo.settings.config import RunConfig, resolve

LARGE = shlex.split("--agents 1000 --topology random-regular:4 --task navigation --bandwidth 1Gbps --latency 1ms")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(plan, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def document(*arguments: str) -> dict[str, Any]:
    return json.loads(run(*arguments, "--json"))


def test_it_is_a_command_of_matrpo() -> None:
    result = CliRunner().invoke(cli, ["plan", "--help"])
    assert result.exit_code == 0
    assert "--agents-per-machine" in result.output
    assert "--wire-dtype" in result.output


@pytest.mark.slow
def test_a_plan_for_a_thousand_agents() -> None:
    printed = run(*LARGE)
    assert "1,000 agents on random-regular:4 (2,000 links)" in printed
    assert "1,000 machines" in printed
    for name in ("rollout", "critic", "finish", "consensus compute", "consensus communication", "waiting", *LIMITS):
        assert name in printed
    assert "16 MB" in printed, "1000 heads on 4,000 samples of 4 bytes"
    assert "bottleneck: " in printed
    assert "relief: " in printed


def test_by_default_all_is_on_this_machine() -> None:
    found = document("--agents", "3")
    assert (found["machines"], found["agents_per_machine"]) == (1, 3)
    assert found["bandwidth_bytes_per_second"] is None
    assert found["limits"]["latency"] == found["limits"]["link bandwidth"] == 0.0
    assert found["bottleneck"] in LIMITS
    assert found["seconds_per_iteration"] == pytest.approx(sum(found["phases"].values()))


def test_settings_and_machines_make_a_difference() -> None:
    base = document("--agents", "4", "--bandwidth", "1MB/s")
    assert base["machines"] == 4
    half = document("--agents", "4", "--bandwidth", "1MB/s", "--wire-dtype", "float16")
    assert half["link"]["payload_bytes"] == base["link"]["payload_bytes"] / 2
    assert half["limits"]["link bandwidth"] < base["limits"]["link bandwidth"]
    thin = document("--agents", "4", "--bandwidth", "1MB/s", "-o", "consensus_samples=400")
    assert thin["link"]["payload_bytes"] == base["link"]["payload_bytes"] / 10
    pairs = document("--agents", "4", "--bandwidth", "1MB/s", "--agents-per-machine", "2")
    assert pairs["machines"] == 2
    cores = document("--agents", "4", "--agents-per-machine", "4", "--cores-per-agent", "0.6")
    assert cores["cores_per_machine"] == 3


def test_a_network_between_nobody_is_noted() -> None:
    printed = run("--agents", "3", "--latency", "1ms", "--agents-per-machine", "3")
    assert "--bandwidth and --latency change nothing" in printed


def test_another_task_than_the_constants_is_noted() -> None:
    assert "were measured with navigation" in run("--agents", "3", "--task", "mpe2/simple_spread_v3")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--bandwidth", "fast"], "--bandwidth fast: expected a number with one of"),
        (["--latency", "1"], "--latency 1: expected"),
        (["--algo", "happo"], "--algo happo: it trains in one process"),
        (["--algo", "dnamarl"], "--algo dnamarl: its steps are not measured"),
        (["--device", "cuda"], "--device cuda: plans are of networks that learn on the processor"),
        (["--cores", "4", "--cores-per-agent", "1"], "leave one out"),
        (["--agents", "5", "--topology", "random-regular:3"], "'topology'"),
        (["--constants", "/nowhere.json"], "No such file"),
        (["--admm-iteration", "3"], "No such option"),
    ],
)
def test_mistakes(arguments: list[str], reason: str) -> None:
    result = CliRunner().invoke(plan, arguments)
    if isinstance(result.exception, ConfigError):
        assert reason in str(result.exception)
    else:
        assert result.exit_code == 2
        assert reason in result.output


def test_the_first_change_that_is_worth_it_is_named() -> None:
    assert choose([0.05, 0.2, 0.5]) == 1
    assert choose([0.01, 0.05, 0.02]) == 1


@pytest.mark.parametrize(
    ("placement", "changes", "expected"),
    [
        (Placement(1, 6), {}, "machines of 2 cores"),
        (Placement(9, 1, bandwidth=1e3), {}, "--wire-dtype float16"),
        (Placement(9, 1, bandwidth=1e3), {"wire_dtype": "float16"}, "--consensus-samples 6"),
        (Placement(9, 1, latency=9.0), {"rollout_length": 4}, "--admm-iterations 100"),
        (Placement(9, 1, bandwidth=1e3), {"topology": "none"}, "connections twice as fast"),
    ],
)
def test_reliefs(placement: Placement, changes: dict[str, Any], expected: str) -> None:
    given = {"agents": 6, "num_envs": 3, "rollout_length": 4, "admm_iterations": 200, **changes}
    config = resolve_graph_settings(RunConfig.of(resolve(("test", given)), 6))
    graph, spec = build_graph(config), task_spec("navigation", 6)
    found = predict(config, spec, graph, CONSTANTS, placement)
    first, *_ = reliefs(config, placement, found)
    assert first.change == expected
    assert predict(first.config, spec, graph, CONSTANTS, first.placement).seconds < found.seconds
