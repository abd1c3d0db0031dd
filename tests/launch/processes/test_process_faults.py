"""Fault scripts on real processes: what they change, and what they must not."""

import subprocess
from pathlib import Path

import pytest
import yaml
from running import checkpoints, command, train, train_here

from matrpo.experiments.pages.report import describe, fault_rows
from matrpo.faults.fault import Fault
from matrpo.faults.script import FaultScript
from matrpo.launch.processes.process_faults import ProcessFaults, read_record, was_killed_by_script
from matrpo.runs.process_directory import ProcessDirectory
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_directory import RunDirectory

QUICK = ("--agents", "4", "--link-resend", "0.1", "--admm-iterations", "24")


@pytest.mark.parametrize("algo", ["matrpo", "dnamarl"])
def test_lost_and_damaged_messages_change_no_result(tmp_path: Path, algo: str) -> None:
    """The link protocol gets every activation through, to the same bits, whatever it is that is sent."""
    faults = [{"do": "drop", "probability": 0.2}, {"do": "corrupt", "probability": 0.1}]
    (tmp_path / "script.yaml").write_text(yaml.safe_dump({"faults": faults}))
    half = ("--steps", "240", "--algo", algo)
    faulty = train(tmp_path / "faulty", *QUICK, *half, "--faults", str(tmp_path / "script.yaml"))
    clean = train_here(tmp_path / "clean", *QUICK, *half)
    assert checkpoints(faulty, 6) == checkpoints(clean, 6) != {}
    report = describe(RunDirectory.open(faulty))
    assert [(row["do"], len(row["processes"])) for row in report["faults"]] == [("drop", 4), ("corrupt", 4)]
    assert sum(row["resends"] for row in report["links"]) > 0


def test_an_agent_kills_itself_and_comes_back(tmp_path: Path) -> None:
    kill = {"do": "kill", "process": "agent 1", "from": {"iteration": 3, "activation": 2}, "restart_after": 0.1}
    (tmp_path / "script.yaml").write_text(yaml.safe_dump({"faults": [kill]}))
    run = train(tmp_path / "run", *QUICK, "--on-agent-loss", "wait", "--faults", str(tmp_path / "script.yaml"))
    directory = RunDirectory.open(run)
    (entry,) = read_record(directory.agent(1))
    assert (entry["do"], entry["iteration"], entry["phase"]) == ("kill", 3, "consensus")
    assert directory.agent(1).read_metrics()[-1]["iteration"] == 12
    assert all(row["whole_from"] is not None for row in describe(directory)["links"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--faults", "loss-99"), "not one of crash-and-return"),
        (("--faults", "loss-5", "--in-process"), "leave --in-process out"),
        (("--faults", "flapping-link", "--topology", "none"), "there is no link 0-1"),
    ],
)
def test_mistakes_start_nothing(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = subprocess.run(command(tmp_path / "run", "--agents", "3", *arguments), capture_output=True, text=True)
    assert result.returncode == 2
    assert words in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_record_names_the_life_that_a_fault_ended(tmp_path: Path) -> None:
    directory = ProcessDirectory(tmp_path)
    script = FaultScript((Fault(0, "kill", process=ProcessId.agent(1)),))
    assert was_killed_by_script(directory, script, ProcessId.agent(1), since=0.0) is None
    (tmp_path / "faults.jsonl").write_text('{"time": 100.0, "event": "begins", "fault": 0, "iteration": 2}\n')
    assert was_killed_by_script(directory, script, ProcessId.agent(1), since=90.0) == script.faults[0]
    assert was_killed_by_script(directory, script, ProcessId.agent(1), since=110.0) is None
    ProcessFaults(script, ProcessId.agent(1), directory, None).move(9, "consensus", 9)  # it is not killed again


def test_a_record_that_was_cut_off_is_read_and_goes_on(tmp_path: Path) -> None:
    """What a fault has done before a power cut it does not do again, and what happens afterwards is recorded."""
    directory = ProcessDirectory(tmp_path)
    record = tmp_path / "faults.jsonl"
    record.write_text(
        '{"time": 100.0, "event": "begins", "fault": 0, "do": "kill", "iteration": 2}\n{"time": 101.0, "ev'
    )
    script = FaultScript((Fault(0, "kill", process=ProcessId.agent(1)), Fault(1, "drop", process=ProcessId.agent(1))))
    ProcessFaults(script, ProcessId.agent(1), directory, None).move(9, "consensus", 9)
    assert [(entry["fault"], entry["event"]) for entry in read_record(directory)] == [(0, "begins"), (1, "begins")]
    assert [row["do"] for row in fault_rows({"agent 1": read_record(directory)})] == ["kill", "drop"]
