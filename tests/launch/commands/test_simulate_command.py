"""`matrpo simulate`, short of the protocol: what it prints, its exit status, and that it leaves no process behind."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from running import Matrpo

from matrpo.consensus.message import LinkMessage
from matrpo.consensus.peer import Peer
from matrpo.launch.commands import simulate as simulate_command
from matrpo.simulation.links.history import Fault, generate, parse
from matrpo.simulation.links.simulator import simulate
from matrpo.simulation.lock_step import history as lock_step
from matrpo.simulation.lock_step.history import ProcessFault


class Deaf(Peer):
    """Hears that its neighbours live, and nothing else."""

    def receive(self, message: LinkMessage, now: float) -> None:
        if message.kind == "beat":
            super().receive(message, now)


def test_histories_are_counted_on_the_last_line(matrpo: Matrpo) -> None:
    status, out, _ = matrpo("simulate", "--seeds", "51", "--first", "7", "--jobs", "2")
    assert status == 0
    *_, speed, last = out.splitlines()
    assert "events/s" in speed
    assert last == "51 histories, 0 violations"


def test_jobs_do_not_change_what_is_found(matrpo: Matrpo) -> None:
    documents = [json.loads(matrpo("simulate", "--seeds", "52", "--jobs", jobs, "--json")[1]) for jobs in ("1", "3")]
    assert documents[0]["events"] == documents[1]["events"] > 5000
    assert documents[0]["histories"] == 52
    assert documents[0]["violations"] == 0
    assert documents[0]["failures"] == []


def test_a_replay_prints_what_happens(matrpo: Matrpo) -> None:
    spec = str(generate(4))
    status, out, err = matrpo("simulate", "--replay", spec)
    assert (status, err) == (0, "")
    assert "begins iteration 0" in out
    assert out.splitlines()[-1] == "1 histories, 0 violations"
    assert matrpo("simulate", "--replay", spec) == (status, out, err)
    document = json.loads(matrpo("simulate", "--replay", spec, "--json")[1])
    assert document["violation"] is None
    assert len(document["trace"]) == len(out.splitlines()) - 1


def test_a_replay_of_the_lock_step_prints_what_happens(matrpo: Matrpo) -> None:
    status, out, err = matrpo("simulate", "--replay", str(lock_step.generate(4)))
    assert (status, err) == (0, "")
    assert "a0 > s0: hello incarnation 1, iteration 1, attempt 0" in out
    assert out.splitlines()[-1] == "1 histories, 0 violations"


def test_a_fault_script_is_run_in_every_history(matrpo: Matrpo, tmp_path: Path) -> None:
    script = tmp_path / "script.yaml"
    script.write_text(
        "faults:\n  - {do: kill, process: agent 3, restart_after: 1}\n  - {do: hostile, probability: 1}\n"
    )
    options = ("simulate", "--seeds", "3", "--jobs", "1", "--faults", str(script))
    status, out, err = matrpo(*options, "--agents", "4")
    assert status == 0
    assert out.splitlines()[-1] == "3 histories, 0 violations"
    assert err == "fault 2: hostile is left out\n"
    status, out, err = matrpo(*options)
    assert (status, out) == (2, "")
    assert "agent 0 to agent 2, not 'agent 3'" in err
    assert err.count("\n") == 1


OF_LINKS = str(
    replace(
        generate(0),
        agents=4,
        links=((0, 1), (0, 2), (1, 2), (2, 3)),
        k=7,
        schedule="seeded",
        clocks=((0.0, 1.0),) * 4,
        faults=(Fault("drop", 1.5, 4.0, (0, 2), 0.25), Fault("kill", 1.0, 3.0, (1,))),
    )
)
OF_PROCESSES = str(
    replace(
        lock_step.generate(0),
        agents=2,
        servers=2,
        rule="noop",
        faults=(
            ProcessFault("kill", 0.5, 1.5, ("s1",)),
            ProcessFault("stop", 1.0, 1.25, ("a0",)),
            ProcessFault("cut", 1.0, 2.0, ("a0", "s1")),
        ),
    )
)


def test_a_history_is_written_as_a_script_with_the_command_that_lets_it_happen(matrpo: Matrpo, tmp_path: Path) -> None:
    script, graph = tmp_path / "script.yaml", tmp_path / "script.links.json"
    status, out, err = matrpo("simulate", "--replay", OF_LINKS, "--as-script", str(script))
    assert (status, err) == (0, "")
    *command, end = shlex.split(out)
    assert end == str(script)
    expected = "matrpo launch --agents 4 --topology {} --admm-iterations 7 --schedule seeded --faults"
    assert " ".join(command) == expected.format(graph)
    assert yaml.safe_load(script.read_text())["faults"] == [
        {"do": "drop", "probability": 0.25, "links": ["0>2"], "from": {"seconds": 1.5}, "for": 2.5},
        {"do": "kill", "process": "agent 1", "from": {"seconds": 1.0}, "restart_after": 2.0},
    ]
    assert (
        matrpo("simulate", "--seeds", "1", "--faults", str(script), "--agents", "4", "--topology", str(graph))[0] == 0
    )
    status, out, err = matrpo("simulate", "--replay", OF_PROCESSES, "--as-script", str(script))
    assert (status, err) == (0, "cut:a0+s1@1..2 is left out\n")
    assert out == f"matrpo launch --agents 2 --env-servers 2 --on-agent-loss noop --faults {script}\n"
    assert [entry["process"] for entry in yaml.safe_load(script.read_text())["faults"]] == ["env-server 1", "agent 0"]


@pytest.mark.slow
def test_a_history_happens_to_a_real_run(matrpo: Matrpo, tmp_path: Path) -> None:
    script, run = tmp_path / "script.yaml", tmp_path / "run"
    _, out, _ = matrpo("simulate", "--replay", OF_PROCESSES, "--as-script", str(script))
    command = [sys.executable, "-m", "matrpo.launch.cli", *shlex.split(out)[1:], "--topology", "line"]
    command += [
        "--task",
        "navigation",
        "--steps",
        "16000",
        "--num-envs",
        "4",
        "--rollout-length",
        "25",
        "--run",
        str(run),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for file in run.rglob("faults.jsonl") for line in file.read_text().splitlines()]
    assert sorted((record["do"], record["event"]) for record in records) == [
        ("kill", "begins"),
        ("stop", "begins"),
        ("stop", "ceases"),
    ]
    assert "env-server 1 was started again" in done.stdout + done.stderr


def test_a_failing_seed_names_a_command_that_replays_it(matrpo: Matrpo, monkeypatch: pytest.MonkeyPatch) -> None:
    broken: Any = partial(simulate, make_peer=Deaf)
    monkeypatch.setattr(simulate_command, "simulate", broken)
    failure = next(failure for seed in range(100) for failure in simulate_command.check_seed(seed).failures)
    program, command, option, spec = shlex.split(failure.replay)
    assert (program, command, option) == ("matrpo", "simulate", "--replay")
    assert len(spec) < len(str(generate(failure.seed)))
    assert str(parse(spec)) == spec
    status, out, _ = matrpo("simulate", option, spec)
    assert status == 1
    *_, found, last = out.splitlines()
    assert failure.violation.startswith(f"{failure.invariant}: ")
    assert f"  {failure.invariant}: " in found
    assert last == "1 histories, 1 violations"
    monkeypatch.setattr(simulate_command, "_run", lambda *_: [simulate_command.Totals(100, 5000, [failure])])
    status, out, _ = matrpo("simulate", "--seeds", "100")
    assert status == 1
    assert failure.replay in out
    assert out.splitlines()[-1] == "100 histories, 1 violations"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--replay", "nonsense"], ["--replay", "agents="]),
        (["--replay", "lock-step nonsense"], ["--replay", "agents="]),
        (["--replay", str(generate(0)).replace("agents=", "agents=x")], ["agents", "integer"]),
        (["--as-script", "script.yaml"], ["--as-script", "--replay"]),
        (["--replay", OF_LINKS, "--as-script", "script.yaml", "--json"], ["--as-script", "--json"]),
        (["--replay", OF_LINKS, "--as-script", "/nowhere/script.yaml"], ["--as-script", "No such file"]),
        (["--replay", OF_PROCESSES.rsplit(" ", 3)[0], "--as-script", "script.yaml"], ["--as-script", "no fault"]),
        (["--faults", "nonsense"], ["--faults nonsense"]),
        (["--faults", "loss-5", "--agents", "2"], ["--topology", "at least 3 agents"]),
        (["--faults", "loss-5", "--agents", "40"], ["--faults loss-5", "agents", "from 1 to 32"]),
        (["--seeds", "0"], ["--seeds", "0"]),
        (["--seeds", "many"], ["--seeds", "many"]),
        (["--first", "-1"], ["--first"]),
        (["--jobs", "0"], ["--jobs"]),
        (["surplus"], ["surplus"]),
    ],
)
def test_bad_input_is_one_line_and_status_2(matrpo: Matrpo, arguments: list[str], words: list[str]) -> None:
    status, out, err = matrpo("simulate", *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert all(word in err for word in words)


def test_ctrl_c_leaves_no_process_behind() -> None:
    command = [sys.executable, "-m", "matrpo.launch.cli", "simulate", "--seeds", "1000000", "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    me = psutil.Process(process.pid)
    workers: list[psutil.Process] = []
    while len(workers) < 2:
        assert process.poll() is None
        workers = [child for child in me.children() if "spawn_main" in " ".join(child.cmdline())]
    for worker in (me, *workers):
        with contextlib.suppress(psutil.NoSuchProcess):  # the first to hear of it may have ended the others
            worker.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    assert psutil.wait_procs(workers, timeout=10)[1] == []
