"""Every benchmark runs at tiny sizes and leaves a well-formed JSON file."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from matrpo.consensus.bus import run_in_process
from matrpo.errors import ConfigError
from matrpo.experiments.bench import device
from matrpo.experiments.bench.command import bench
from matrpo.experiments.bench.problem import Problem, train
from matrpo.experiments.bench.report import Goal, Report
from matrpo.experiments.bench.solver import augmented_lagrangian
from matrpo.experiments.planning.cost_constants import fit, read_measurements
from matrpo.networks.device import on_processor
from matrpo.settings.config import resolve


def run(*arguments: str, path: Path) -> tuple[dict[str, Any], str]:
    """A benchmark's JSON document and what it printed."""
    result = CliRunner().invoke(bench, [*arguments, "--quick", "--json", str(path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(path.read_text()), result.stdout


def check_document(document: dict[str, Any], name: str, tables: int) -> None:
    assert document["benchmark"] == name
    assert document["settings"]["quick"] is True
    assert document["machine"]["cores"] >= 1
    assert {"torch", "numpy", "load_average"} <= set(document["machine"])
    assert len(document["tables"]) == tables
    for rows in document["tables"].values():
        assert rows
        assert all(list(row) == list(rows[0]) for row in rows)
        numbers = [value for row in rows for value in row.values() if not isinstance(value, str)]
        assert all(math.isfinite(number) for number in numbers)


def test_solver(tmp_path: Path) -> None:
    document, printed = run("solver", "--agents", "3", "--activations", "9,12", path=tmp_path / "bench.json")
    check_document(document, "solver", tables=2)
    comparisons, products = document["tables"].values()
    assert [(row["K"], row["solver"]) for row in comparisons] == [
        (9, "recycled"),
        (9, "cg"),
        (12, "recycled"),
        (12, "cg"),
    ]
    assert [row["fisher_products"] for row in comparisons if row["solver"] == "cg"] == [2 * 9 * 10, 2 * 12 * 10]
    assert [row["product"] for row in products] == ["jvp", "vjp", "fisher"]
    assert "recycled" in printed


def test_solver_of_recurrent_networks(tmp_path: Path) -> None:
    changes = ("-o", "recurrent_layers=1", "--training", "1")
    document, _ = run("solver", "--agents", "3", "--activations", "6", *changes, path=tmp_path / "bench.json")
    comparisons, products = document["tables"].values()
    assert all(0 < row["kl_over_limit"] < 10 for row in comparisons)
    assert all(row["gflops"] > 0 for row in products)


def test_rollout(tmp_path: Path) -> None:
    document, _ = run("rollout", "--agents", "3", "--launched", "3", path=tmp_path / "bench.json")
    check_document(document, "rollout", tables=2)
    stepping, whole = document["tables"].values()
    assert [row["agents"] for row in stepping] == [3]
    assert whole[0]["rollout_steps_per_second"] > 0


def test_envs(tmp_path: Path) -> None:
    document, printed = run("envs", path=tmp_path / "bench.json")
    check_document(document, "envs", tables=3)
    beside_mpe2, beside_vmas, by_agents = document["tables"].values()
    tasks = {
        "navigation",
        "treasure",
        "collect_treasure",
        "simple_spread",
        "simple_reference",
        "simple_speaker_listener",
    }
    assert {row["task"] for row in beside_mpe2} == {row["task"] for row in beside_vmas} == tasks
    assert [row["agents"] for row in beside_mpe2 if row["task"] == "treasure"] == [8, 12]
    assert {row["task"] for row in beside_vmas if row["ratio"] == "not in vmas"} == {"treasure", "collect_treasure"}
    assert all(row["mpe2_CPU_s_per_1000_steps"] > 0 for row in beside_mpe2)
    assert len(by_agents) == 4
    assert "not in vmas" in printed


def test_a_missing_vmas_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vmas", None)
    with pytest.raises(ConfigError, match=r"vmas: pip install 'matrpo\[bench\]'"):
        CliRunner().invoke(bench, ["envs", "--json", str(tmp_path / "bench.json")], catch_exceptions=False)


@pytest.mark.slow
def test_signal(tmp_path: Path) -> None:
    document, _ = run("signal", "--batches", "2", path=tmp_path / "bench.json")
    check_document(document, "signal", tables=4)
    earned, shown, expressed, taken = document["tables"].values()
    assert earned[-1]["a bank"] > 5 * earned[0]["a bank"] > 0
    assert [row["advantages of"] for row in shown] == ["banks", "hunters", "all"]
    assert shown[0]["slope"] + shown[1]["slope"] == pytest.approx(shown[2]["slope"], abs=1e-6)
    assert all(abs(row["on its samples"]) <= 1 for row in expressed)
    assert [row["steps"] for row in taken][2:] == ["MATRPO, K = 96", "MATRPO, K = 288"]


def test_wire(tmp_path: Path) -> None:
    document, _ = run("wire", "--agents", "3", "--samples", "50", path=tmp_path / "bench.json")
    check_document(document, "wire", tables=2)
    packing, trips = document["tables"].values()
    assert [row["payload_bytes"] for row in packing] == [3 * 50 * 4, 3 * 50 * 2]
    assert all(row["round_trip_ms"] > 0 for row in trips)


@pytest.mark.slow
def test_loss(tmp_path: Path) -> None:
    document, _ = run("loss", "--agents", "3", path=tmp_path / "bench.json")
    check_document(document, "loss", tables=1)
    (rows,) = document["tables"].values()
    assert [row["lost"] for row in rows] == ["0%", "30%"]
    assert rows[0]["commits"] == rows[1]["commits"] > 0
    assert not any(row["disagreements"] or row["given_up"] for row in rows)


@pytest.mark.slow
def test_startup(tmp_path: Path) -> None:
    document, _ = run("startup", "--agents", "3", "--repeats", "1", path=tmp_path / "bench.json")
    check_document(document, "startup", tables=2)
    starts, memory = document["tables"].values()
    assert starts[0]["ready_seconds"] > 0
    assert all(row["unique_MB_median"] > 1 for row in memory)


@pytest.mark.slow
def test_shards(tmp_path: Path) -> None:
    document, _ = run("shards", "--task", "mamujoco/HalfCheetah-2x3", path=tmp_path / "bench.json")
    check_document(document, "shards", tables=1)
    [[row]] = document["tables"].values()
    assert row["task"] == "mamujoco/HalfCheetah-2x3"
    assert row["ratio"] == pytest.approx(row["two"] / row["one server"])
    assert row["one server"] > 0


@pytest.mark.slow
def test_scaling(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    document, printed = run("scaling", "--agents", "3", "--iterations", "1", path=path)
    check_document(document, "scaling", tables=4)
    processor, times, sent, compared = document["tables"].values()
    assert [(row["envs"], row["steps"]) for row in sent] == [(4, 10), (2, 20)]
    for row, time, used in zip(sent, times, processor, strict=True):
        assert row["ratios"] == 2 * row["activations"] / 3
        assert row["others"] >= 0
        assert row["MB"] > row["payload_MB"] == pytest.approx(row["ratios"] * 3 * 40 * 4e-6)
        assert row["unique_MB"] > 1
        assert time["iteration"] > 0
        assert min(used.values()) > 0
        assert used["cpu_agent"] == pytest.approx(
            sum(used[f"cpu_{phase}"] for phase in ("act", "prepare", "consensus", "finish", "record"))
        )
    assert [row["is"] for row in compared] == ["fitted", "fitted"]
    for row, was in zip(compared, sent, strict=True):
        assert was["payload_MB"] < (1 + row["bytes_%"] / 100) * was["MB"] <= was["MB"], (
            "probes and questions come on top"
        )
    assert "error" in printed
    runs, machine = read_measurements(path)
    assert [run.config.admm_iterations for run in runs] == [36 * 3, 18 * 3]
    assert fit(runs, machine).agents == (3,)


@pytest.mark.slow
def test_throughput(tmp_path: Path) -> None:
    document, printed = run("throughput", path=tmp_path / "bench.json")
    check_document(document, "throughput", tables=1)
    (rows,) = document["tables"].values()
    assert [(row["algorithm"], row["HARL"]) for row in rows] == [("happo", 1.44), ("hatrpo", 2.17), ("mappo", 1.45)]
    for row in rows:
        assert row["rollout"] > 0
        assert row["together"] == pytest.approx(row["rollout"] + row["update"])
        assert row["times_less"] == pytest.approx(row["HARL"] / row["together"])
        assert 100 < row["peak_MiB"] < 2000
    assert "d539bad" in document["settings"]["HARL"]
    assert "HARL MiB" in printed


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["solver", "--agents", "2"], "a ring needs at least 3"),
        (["wire", "--json", "/nowhere/bench.json"], "cannot be written"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(arguments: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        CliRunner().invoke(bench, arguments, catch_exceptions=False)


def test_counts_must_be_positive_integers() -> None:
    result = CliRunner().invoke(bench, ["scaling", "--agents", "3,x"])
    assert result.exit_code == 2
    assert "'3,x' is not a list of positive integers" in result.output


def test_a_goal_is_met_on_its_good_side() -> None:
    assert Goal("speed", 11.0, 10.0).met
    assert not Goal("speed", 9.0, 10.0).met
    assert Goal("cost", 9.0, 10.0, at_least=False).met
    assert not Goal("cost", 11.0, 10.0, at_least=False).met


def test_goals_are_shown_and_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("name", {}, {"title": [{"a_figure": 12345.0}]}, [Goal("cost", 11.0, 10.0, at_least=False)])
    report.print()
    printed = capsys.readouterr().out
    assert "12,345" in printed
    assert "NOT MET cost: 11 (goal: <= 10)" in printed
    report.save(tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text())["goals"][0]["met"] is False


@pytest.mark.parametrize("there", [False, True])
def test_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """Where there is a card its half is measured too; here that is the processor's again."""
    monkeypatch.setattr(device, "cuda_devices", lambda: ["Fast One (139 GiB)"] if there else [])
    measure = device.measure
    monkeypatch.setattr(device, "measure", lambda config, *rest: measure(on_processor(config), *rest))
    document, printed = run("device", "--iterations", "2", path=tmp_path / "bench.json")
    check_document(document, "device", tables=3)
    for rows in document["tables"].values():
        assert [row["device"] for row in rows] == ["processor", *(["Fast One (139 GiB)"] if there else [])]
        for row in rows:
            phases = [value for name, value in row.items() if name not in ("device", "iteration", "times_as_fast")]
            assert min(phases) > 0.0
            assert row["iteration"] == pytest.approx(sum(phases))
    assert "Table III" in printed


def test_augmented_lagrangian_by_hand() -> None:
    """Against (21) written out with z_e^q and both signs, at states that a short consensus has left."""
    sizes = {"num_envs": 2, "rollout_length": 5, "hidden_sizes": (4,), "admm_iterations": 6}
    config = resolve(("test", {"agents": 3, "beta": 0.01, "tensorboard": False, **sizes}))
    problem = Problem(train(config, 0)[-1], config)
    generator = torch.Generator().manual_seed(1)
    peers = problem.peers
    for peer in peers:
        peer.begin(1, lambda pull: np.tanh(pull + 1 + pull.shape[0]).astype(np.float32), (3, 10), now=0.0)
    run_in_process(peers)
    ratios = [torch.randn(3, 10, generator=generator) for _ in range(3)]
    expected = 0.0
    for q in range(3):
        for n in range(3):
            u = ratios[q][n].numpy()
            expected -= float(problem.advantages[q].numpy() @ u)
            for end in peers[q].links.values():
                y, z = end.tip.y[n], end.sign * end.tip.ubar[n]
                gap = end.sign * u - z
                expected += float(y @ gap) + 0.01 / 2 * float(gap @ gap)
    found = augmented_lagrangian(problem.graph, problem.advantages, ratios, peers, 0.01)
    assert found == pytest.approx(expected / 10, rel=1e-5)


def test_traffic(tmp_path: Path) -> None:
    document, printed = run("traffic", "--task", "traffic/grid-1x1", "--greens", "6", path=tmp_path / "bench.json")
    check_document(document, "traffic", tables=2)
    controls, speeds = document["tables"].values()
    assert [row["control"] for row in controls] == ["fixed-time, the network's", "fixed-time, 6 s of green", "actuated"]
    assert all(row["waiting_time_low"] < row["waiting_time"] < row["travel_time"] < 60 for row in controls)
    assert len({row["waiting_time"] for row in controls}) == 3
    assert [row["what"].partition(",")[0] for row in speeds] == ["SUMO alone"] * 3 + ["the task"]
    assert "actuated" in printed
