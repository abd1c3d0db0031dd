"""Processes of a cluster whose folders are not theirs: left by another run, damaged, or in use."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from running import TINY, free_ports, train, wait_for

from matrpo.runs.run_directory import RunDirectory

MATRPO = (sys.executable, "-m", "matrpo.launch.cli")
SMALL = ("--agents", "3", "--admm-iterations", "6", "--no-tensorboard")
ALL = (("env-server",), *(("agent", "--id", str(agent)) for agent in range(3)))


def cluster(run: Path, steps: int) -> Path:
    """The cluster file of a new run on this machine."""
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in (TINY | {"steps": steps}).items()]
    hosts = ("--host", "127.0.0.1", "--env-host", "127.0.0.1", "--port", str(free_ports(4)))
    command = [*MATRPO, "cluster", "init", *SMALL, *settings, *hosts, "--seed", "7", "--out", str(run)]
    subprocess.run(command, check=True, capture_output=True)
    return run / "cluster.yaml"


def begin(file: Path, process: tuple[str, ...]) -> subprocess.Popen[str]:
    return subprocess.Popen([*MATRPO, *process, "--cluster", str(file)], stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.mark.slow
@pytest.mark.parametrize("steps", [400, 800])
def test_what_an_earlier_run_has_left_stops_one_process_and_no_other_begins_without_it(
    tmp_path: Path, steps: int
) -> None:
    earlier = train(tmp_path / "earlier", *SMALL)
    file = cluster(tmp_path / "new", steps)
    folder = file.parent / "agents" / "02"
    shutil.copytree(earlier / "agents" / "02", folder)
    with ExitStack() as stack:
        processes = [stack.enter_context(begin(file, process)) for process in ALL]
        stack.callback(lambda: [process.kill() for process in processes])
        status, errors = end(processes.pop())
        assert status == 2
        assert errors.count("\n") == 1
        assert f"checkpoint 12 of agent 2 in {folder} is of run " in errors
        assert "(seed 0), expected one of run " in errors
        for process in ALL[:2]:
            wait_for((file.parent / ("env" if len(process) == 1 else "agents/00") / "beat").exists, processes[0])
            status, errors = end(begin(file, process))
            assert (status, "is in use: this process runs already" in errors) == (2, True)
        shutil.rmtree(folder)
        processes.append(stack.enter_context(begin(file, ALL[-1])))
        assert [end(process)[0] for process in processes] == [0] * 4
    lines = RunDirectory.open(file.parent).environment_metrics()
    assert [line["iteration"] for line in lines] == list(range(1, steps // 40 + 1))


@pytest.mark.slow
def test_processes_go_on_from_their_newest_checkpoints_that_are_whole(tmp_path: Path) -> None:
    file = cluster(tmp_path / "run", 480)

    def run_all() -> list[tuple[int, str]]:
        return [end(process) for process in [begin(file, process) for process in ALL]]

    assert [status for status, _ in run_all()] == [0] * 4
    config = file.parent / "config.yaml"
    config.write_text(config.read_text().replace("steps: 480", "steps: 600"))
    damaged = file.parent / "agents" / "01" / "checkpoint-000012.safetensors"
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    ended = run_all()
    assert [status for status, _ in ended] == [0] * 4
    assert (
        f"checkpoint {damaged} is damaged: its checksum is another one; going on from that of iteration 10"
        in ended[2][1]
    )
