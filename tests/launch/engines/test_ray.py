"""Runs in the actors of a Ray cluster of four nodes here: `pytest -n 0 -m slow tests/launch/engines/test_ray.py`."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import LAST, checkpoints, has_iterations, metrics, start, train, wait_for

from matrpo.runs.run_directory import RunDirectory

TRAFFIC = ("messages_", "bytes_", "unsent", "resends", "rejected", "refused", "links")
ENDLESS = ("--steps", "4000000")


@pytest.mark.parametrize(
    ("options", "reasons"),
    [
        (["--backend", "ray", "--restart"], ["--backend ray", "leave --in-process, --restart and --faults out"]),
        (["--backend", "ray", "--in-process"], ["leave --in-process"]),
        (["--backend", "ray", "--algo", "mappo"], ["mappo trains in one process"]),
        (["--ray-address", "auto"], ["add --backend ray"]),
        (["--backend", "slurm"], ["'slurm'", "'ray'"]),
    ],
)
def test_options_that_do_not_go_together_are_told_before_anything_is_written(matrpo, tmp_path, options, reasons):
    status, _, errors = matrpo("launch", "--run", tmp_path / "run", *options)
    assert status == 2
    assert all(reason in errors for reason in reasons)
    assert not (tmp_path / "run").exists()


def test_without_ray_one_line_says_what_to_install(matrpo, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    status, _, errors = matrpo("launch", "--run", tmp_path / "run", "--backend", "ray")
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "install matrpo[ray]" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:no-port"])
def test_an_address_where_nobody_listens_is_told_at_once(matrpo, tmp_path, address):
    status, _, errors = matrpo("launch", "--run", tmp_path / "run", "--backend", "ray", "--ray-address", address)
    assert (status, len(errors.splitlines())) == (2, 1)
    assert f"--ray-address {address}: no Ray cluster" in errors
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A Ray cluster of four nodes with four CPUs each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for _ in range(4):
        cluster.add_node(num_cpus=4)
    yield cluster
    cluster.shutdown()


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    wait_for(condition, process)


def latest(run: Path, agent: int) -> int:
    lines = RunDirectory.open(run).agent(agent).read_metrics()
    return lines[-1]["iteration"] if lines else 0


def all_go_on(run: Path, agents: int) -> Callable[[], bool]:
    """Whether all agents took part in later iterations than the server's last is now."""
    now = len(RunDirectory.open(run).env.read_metrics())
    return lambda: all(latest(run, agent) > now for agent in range(agents))


@pytest.mark.slow
def test_twelve_agents_on_four_nodes_learn_what_one_process_does_to_the_bit(nodes, tmp_path):
    arguments = ("--agents", "12")
    spread = train(tmp_path / "ray", *arguments, "--backend", "ray", "--ray-address", nodes.address)
    single = train(tmp_path / "single", *arguments, "--in-process")
    assert RunDirectory.open(spread).latest_common_iteration() == LAST
    assert checkpoints(spread) == checkpoints(single)
    assert metrics(spread, without=TRAFFIC) == metrics(single, without=TRAFFIC)


@pytest.mark.slow
def test_two_servers_on_four_nodes_learn_what_one_process_does_to_the_bit(nodes, tmp_path):
    arguments = ("--agents", "4", "--env-servers", "2")
    spread = train(tmp_path / "ray", *arguments, "--backend", "ray", "--ray-address", nodes.address)
    launched = train(tmp_path / "launched", *arguments)
    single = train(tmp_path / "single", *arguments, "--in-process")
    assert RunDirectory.open(spread).latest_common_iteration() == LAST
    assert checkpoints(spread) == checkpoints(launched)
    of_one = {name: data for name, data in checkpoints(single).items() if name.startswith("agents")}
    assert of_one.items() <= checkpoints(spread).items()
    assert metrics(spread, without=TRAFFIC) == metrics(launched, without=TRAFFIC)


@pytest.mark.slow
@pytest.mark.parametrize(("servers", "killed"), [("1", "agent 2"), ("2", "env-server 1")])
def test_a_killed_actor_and_a_killed_node_return_and_the_run_goes_on_where_it_was_stopped(
    nodes, tmp_path, servers, killed
):
    import ray

    agents, run = 6, tmp_path / "run"
    options = ("--agents", str(agents), "--env-servers", servers, *ENDLESS)
    process = start(run, *options, "--backend", "ray", "--ray-address", nodes.address)
    until(has_iterations(run, 3), process)
    ray.init(address=nodes.address, namespace="matrpo", log_to_driver=False)
    try:
        (name,) = (name for name in ray.util.list_named_actors() if name.endswith(killed))
        ray.kill(ray.get_actor(name), no_restart=False)
        (files,) = (files for one, files in RunDirectory.open(run).processes().items() if one.name == killed)
        starts = files.path / "incarnation.json"
        before = starts.read_text()
        until(lambda: starts.read_text() != before, process)
        until(all_go_on(run, agents), process)
        here = ray.get_runtime_context().get_node_id()  # of this process, and of the launcher
        elsewhere = [node for node in nodes.worker_nodes if node.node_id != here]
        nodes.remove_node(elsewhere[0], allow_graceful=False)
        time.sleep(1.0)
        until(all_go_on(run, agents), process)
    finally:
        ray.shutdown()
    process.terminate()
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 130, errors
    assert f"{killed} is back" in errors
    assert RunDirectory.open(run).latest_common_iteration() > 3
