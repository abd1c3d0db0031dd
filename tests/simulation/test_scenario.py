"""What the simulators take from a fault script."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from matrpo.faults.script import FaultScript, library
from matrpo.simulation.links import history as links
from matrpo.simulation.links.simulator import simulate
from matrpo.simulation.lock_step import history as lock_step
from matrpo.simulation.lock_step.simulator import simulate_lock_step
from matrpo.simulation.scenario import Scenario, generate, parse, script_of
from matrpo.topology import CommunicationGraph, make_graph

RING = make_graph("ring", 4, 0)


def read(folder: Path, *entries: str, servers: int = 1) -> tuple[list[str], list[str]]:
    """The faults of links and of processes that are made of the entries of a script."""
    script = folder / "script.yaml"
    script.write_text("faults:\n" + "".join(f"  - {{ {entry} }}\n" for entry in entries))
    scenario = Scenario.of(FaultScript.load(str(script), RING, servers), RING, servers)
    return [str(fault) for fault in scenario.of_links], [str(fault) for fault in scenario.of_processes]


@pytest.mark.parametrize(
    ("entry", "of_links", "of_processes"),
    [
        ("do: drop, probability: 0.2", ["drop:all@0..10*0.2"], []),
        ("do: duplicate, probability: 0.5, links: [0>1], for: 2", ["duplicate:0>1@0..2*0.5"], []),
        ("do: corrupt, probability: 1, links: [1-2], from: {seconds: 3}, for: 1",
         ["corrupt:1>2@3..4*1", "corrupt:2>1@3..4*1"], []),
        ("do: delay, seconds: 0.5, jitter: 0.25, for: 4", ["delay:all@0..4*0.75"], []),
        ("do: reorder, probability: 0.1, for: 4", ["delay:all@0..4*0.2"], []),
        ("do: drop, probability: 1, links: [2>3], for: 2, every: 6, from: {iteration: 2}",
         ["drop:2>3@1..3*1", "drop:2>3@7..9*1", "drop:2>3@13..15*1"], []),
        ("do: partition, groups: halves, from: {iteration: 3, phase: consensus}, until: {iteration: 5}",
         ["partition:0+1@2.5..4"], []),
        ("do: partition, groups: [[0], [1, 2], [3]], for: 1", ["partition:0@0..1", "partition:1+2@0..1"], []),
        ("do: kill, process: agent 1, from: {iteration: 3}, restart_after: 5", ["kill:1@2..7"], ["kill:a1@2..7*0"]),
        ("do: kill, process: agent 2", ["kill:2@0..inf"], ["kill:a2@0..inf*0"]),
        ("do: kill, process: env-server 1, restart_after: 1", [], ["kill:s1@0..1*0"]),
        ("do: stop, process: agent 0, for: 3", ["stop:0@0..3"], ["stop:a0@0..3"]),
        ("do: limit, bytes_per_second: 1000", [], []),
        ("do: hostile, probability: 0.5", [], []),
    ],
)  # fmt: skip
def test_an_entry_is_read_as_faults(tmp_path: Path, entry: str, of_links: list[str], of_processes: list[str]) -> None:
    assert read(tmp_path, entry, servers=2) == (of_links, of_processes)


@pytest.mark.parametrize("name", library())
def test_scripts_that_ship_violate_nothing(name: str) -> None:
    scenario = Scenario.of(FaultScript.load(name, RING, 2), RING, 2)
    for seed in range(3):
        of_links, of_lock_step = generate(seed, scenario)
        assert (of_links.links, of_links.faults) == (RING.links, scenario.of_links)
        assert (of_lock_step.agents, of_lock_step.servers) == (4, 2)
        assert of_lock_step.rule != "wait" or all(fault.stop < math.inf for fault in of_lock_step.faults)
        for described in (of_links, of_lock_step):
            assert parse(str(described)) == described
        assert simulate(of_links).violation is None
        assert simulate_lock_step(of_lock_step).violation is None


def load(folder: Path, entries: list[dict[str, Any]], graph: CommunicationGraph, servers: int = 1) -> FaultScript:
    script = folder / "written.yaml"
    script.write_text(yaml.safe_dump({"faults": entries}))
    return FaultScript.load(str(script), graph, servers)


def plain(fault: Any) -> tuple[Any, ...]:
    """A fault as a script can say it, to the millisecond; it does not tell how an agent returns."""
    kind = "kill" if fault.kind == "reset" else fault.kind
    return kind, fault.start, round(fault.stop, 3), fault.where, round(fault.amount, 6)


def test_what_is_written_as_a_script_is_read_as_the_same_faults_of_links(tmp_path: Path) -> None:
    for seed in range(100):
        history = links.generate(seed)
        entries, left_out = script_of(history)
        assert left_out == []
        script = load(tmp_path, entries, history.graph)
        read = Scenario.of(script, history.graph, 1).of_links
        of_groups = [fault for fault in history.faults if fault.kind == "partition"]
        assert [plain(fault) for fault in read if fault.kind != "partition"] == [
            plain(fault) for fault in history.faults if fault.kind != "partition"
        ]
        both_ways = {pair for i, j in history.links for pair in ((i, j), (j, i))}
        for fault, entry in zip(of_groups, [e for e in script.faults if e.kind == "partition"], strict=True):
            assert entry.directions == {(i, j) for i, j in both_ways if (i in fault.where) != (j in fault.where)}


def test_what_is_written_as_a_script_is_read_as_the_same_faults_of_processes(tmp_path: Path) -> None:
    for seed in range(100):
        history = lock_step.generate(seed)
        entries, left_out = script_of(history)
        graph = make_graph("complete", max(2, history.agents), 0)
        read = Scenario.of(load(tmp_path, entries, graph, history.servers), graph, history.servers).of_processes
        told = [fault for fault in history.faults if fault.kind in ("stop", "kill")]
        assert [plain(fault)[:4] for fault in read] == [plain(fault)[:4] for fault in told]
        assert left_out == [str(fault) for fault in history.faults if fault not in told]


def test_without_a_script_the_histories_of_a_seed_are_drawn() -> None:
    assert generate(7) == (links.generate(7), lock_step.generate(7))
