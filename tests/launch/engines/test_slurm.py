"""A run as a Slurm job: the script's parts, and, where Slurm is installed, a job that is killed bit by bit.

`pytest -n 0 -m slow tests/launch/engines/test_slurm.py` starts a Slurm of its own: Debian's `slurm-wlm`, and root.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from running import LAST, TINY, checkpoints, free_ports, has_iterations, train

from matrpo.launch.cluster.cluster_file import Cluster
from matrpo.runs.process_id import in_order_of_ports
from matrpo.runs.run_directory import RunDirectory

SETTINGS = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]


@pytest.fixture
def render(matrpo, tmp_path):
    """Renders a run of so many agents; gives its run directory."""

    def make(agents, *options):
        run = tmp_path / "run"
        port = free_ports(agents + 2)
        given = ("--agents", agents, "--port", port, "--out", run)
        status, _, errors = matrpo("cluster", "render", "slurm", *given, *SETTINGS, *options)
        assert status == 0, errors
        assert f"sbatch {run}/slurm.sh" in errors
        return run

    return make


def functions(run):
    """The script up to where it looks for its hosts."""
    return (run / "slurm.sh").read_text().split("# The host of each task")[0]


def bash(script, **options):
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, **options)


def test_the_job_asks_for_a_task_for_each_process_and_outlives_nodes(render):
    run = render(4, "--sbatch=--partition=long", "--sbatch", "--time=1-0")
    script = (run / "slurm.sh").read_text()
    asked = re.findall(r"^#SBATCH (.+)$", script, re.MULTILINE)
    assert {"--ntasks=5", "--no-kill", "--requeue", "--partition=long", "--time=1-0"} <= set(asked)
    assert "--no-kill --kill-on-bad-exit=0" in script
    assert subprocess.run(["bash", "-n", run / "slurm.sh"]).returncode == 0
    assert os.access(run / "slurm.sh", os.X_OK)


@pytest.mark.parametrize(
    ("servers", "nodes", "tasks", "expected"),
    [
        (1, "a", "5", "aaaaa"),
        (1, "a b", "3,2", "aaabb"),
        (1, "a b c", "2(x2),1", "aabbc"),
        (1, "a b c d e", "1(x5)", "abcde"),
        (1, "a b", "4,2", "aaaab"),
        (2, "a b c", "2(x3)", "aabbcc"),
        (2, "a b c d e f", "1(x6)", "abcdef"),
    ],
)
def test_every_task_is_where_slurm_put_it(render, tmp_path, servers, nodes, tasks, expected):
    """Stand-ins for Slurm's commands end at once; the first that starts agents notes where."""
    run = render(4, "--env-servers", servers)
    before = Cluster.load(run / "cluster.yaml")
    path = tmp_path / "bin"
    path.mkdir()
    hosts = " ".join(f"node-{name}" for name in nodes.split())
    stand_ins = {
        "scontrol": f"printf '%s\\n' {hosts}",
        "srun": f'echo "$@" >> {tmp_path}/steps; [ -z "$SLURM_HOSTFILE" ] || cp "$SLURM_HOSTFILE" {tmp_path}/hosts',
        "scancel": "true",
    }
    for name, commands in stand_ins.items():
        (path / name).write_text(f"#!/bin/bash\n{commands}\n")
        (path / name).chmod(0o755)
    script = (run / "slurm.sh").read_text()
    program = re.search(r"^matrpo=.*$", script, re.MULTILINE)
    stand_in = tmp_path / "matrpo"
    stand_in.write_text(f'#!/bin/sh\nexec {sys.executable} -m matrpo.launch.cli "$@"\n')
    stand_in.chmod(0o755)
    script = script.replace(program[0], f"matrpo={stand_in}")
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node-[...]"}
    done = bash(script, env={**environment, "SLURM_TASKS_PER_NODE": tasks, "SLURM_JOB_ID": "7"})
    assert done.returncode == 0, done.stderr
    after = Cluster.load(run / "cluster.yaml")
    order = in_order_of_ports(4, servers)
    placed = [re.fullmatch(r"tcp://node-(.):(\d+)", after.endpoints[process]) for process in order]
    assert "".join(match[1] for match in placed) == expected
    assert [match[2] for match in placed] == [before.endpoints[process][-5:] for process in order]
    assert after.keys == before.keys
    assert (tmp_path / "hosts").read_text().split() == [f"node-{name}" for name in expected[1:5]]
    steps = (tmp_path / "steps").read_text().splitlines()
    assert sorted(re.search(r"--ntasks=(\d)", step)[1] for step in steps) == [*["1"] * servers, "4"]
    started = [re.search(r"--nodelist=node-(.) .* env-server .*--id (\d)", step) for step in steps]
    assert {match[2]: match[1] for match in started if match} == dict(
        zip("01", expected[:1] + expected[5:], strict=False)
    )


def test_a_command_is_run_again_until_it_ends_well(render, tmp_path):
    script = f"{functions(render(2))}\nsleep() {{ :; }}\n"
    count = f"echo >> {tmp_path}/times; test $(wc -l < {tmp_path}/times) -ge 4"
    assert bash(f"{script}keep bash -c '{count}'").returncode == 0
    assert (tmp_path / "times").read_text() == 4 * "\n"


@pytest.mark.parametrize(("status", "times"), [(0, 1), (130, 1), (2, 10), (137, 10)])
def test_a_command_that_was_stopped_or_fails_at_once_is_given_up(render, tmp_path, status, times):
    script = f"{functions(render(2))}\nsleep() {{ :; }}\n"
    done = bash(f"{script}keep bash -c 'echo >> {tmp_path}/times; exit {status}'")
    assert done.returncode == status
    assert (tmp_path / "times").read_text() == times * "\n"


def test_an_attached_command_tells_its_status_and_hears_of_a_stop(render):
    script = functions(render(2))
    assert bash(f"{script}\nattached bash -c 'exit 7'").returncode == 7
    waits = "while read -t 0.1; (($? > 128)); do :; done"  # a signal just before a read is slept through
    stopped = bash(f"{script}\n(sleep 0.5; kill -TERM $$) &\nattached bash -c 'trap \"exit 130\" TERM; {waits}'")
    assert stopped.returncode == 130
    late = f'{script}\ntrap() {{ sleep 0.5; builtin trap "$@"; }}'
    assert bash(f"{late}\nattached bash -c 'exit 7'").returncode == 7


def test_an_attached_command_ends_when_its_shell_is_killed(render, tmp_path):
    wait_for_end = f"cat; echo ended > {tmp_path}/end"
    done = bash(f"{functions(render(2))}\n(sleep 0.5; kill -KILL $$) &\nattached bash -c '{wait_for_end}'")
    assert done.returncode == -9
    deadline = time.monotonic() + 30.0
    while not (tmp_path / "end").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("options", "reasons"),
    [
        (["--sbatch", "partition=long"], ["--sbatch 'partition=long'", "option of sbatch"]),
        (["--sbatch", "--a\n#SBATCH --b"], ["option of sbatch"]),
        (["--insecure"], ["--insecure", "leave it out"]),
    ],
)
def test_mistakes_are_told_before_anything_is_written(matrpo, tmp_path, options, reasons):
    status, _, errors = matrpo("cluster", "render", "slurm", "--out", tmp_path / "run", *options)
    assert status == 2
    assert all(reason in errors for reason in reasons)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("hosts", "reasons"),
    [(["a", "b"], ["2 hosts", "5 processes"]), (["a"] * 4 + ["b c"], ["'b c' is not the name of a host"])],
)
def test_a_move_names_a_host_for_every_process(matrpo, render, hosts, reasons):
    file = render(4) / "cluster.yaml"
    before = file.read_bytes()
    status, _, errors = matrpo("cluster", "move", "--cluster", file, *hosts)
    assert status == 2
    assert all(reason in errors for reason in reasons)
    assert file.read_bytes() == before


CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
NodeName=localhost NodeHostname={host} Port={node_port} CPUs=8 State=UNKNOWN
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Slurm of one node, this machine."""
    folder = tmp_path / "slurm"
    (folder / "state").mkdir(parents=True)
    (folder / "spool").mkdir()
    port = free_ports(2)
    host = socket.gethostname().partition(".")[0]
    file = folder / "slurm.conf"
    file.write_text(CONFIGURATION.format(host=host, port=port, node_port=port + 1, folder=folder))
    monkeypatch.setenv("SLURM_CONF", str(file))
    daemons = [subprocess.Popen([name, "-D", "-c"]) for name in ("slurmctld", "slurmd")]
    try:
        until(lambda: "idle" in say("sinfo", "--noheader"))
        yield
    finally:
        subprocess.run(["scancel", "--user=root", "--signal=KILL", "--full"], capture_output=True)
        try:
            until(lambda: not say("squeue", "--noheader"))
        finally:
            for daemon in daemons:
                daemon.terminate()
                daemon.wait()


def say(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def until(condition) -> None:
    deadline = time.monotonic() + 600.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


class Job:
    """A run as a job of the test's own Slurm."""

    def __init__(self, run: Path) -> None:
        self.directory = RunDirectory.open(run)
        self.id = say("sbatch", "--parsable", str(run / "slurm.sh")).strip()

    def steps(self, name: str) -> list[str]:
        """The running steps of this name: the servers' are `matrpo`, the agents' is `bash`."""
        lines = say("squeue", "--steps", "--noheader", "--format=%j %i", f"--jobs={self.id}").splitlines()
        return [step for own, step in map(str.split, lines) if own == name]

    def kill_step(self, name: str) -> None:
        """Kill the newest step of a name, and wait until it is there again."""
        before = self.steps(name)
        killed = max(before, key=lambda step: int(step.rpartition(".")[2]))
        subprocess.run(["scancel", "--signal=KILL", killed], capture_output=True)
        until(lambda: len(self.steps(name)) == len(before) and killed not in self.steps(name))

    def kill_agent(self, agent: int) -> None:
        """Kill one task's agent, not the task."""
        log = str(self.directory.agent(agent).log_path)
        (process,) = (one for one in psutil.process_iter() if log in [file.path for file in open_files(one)])
        process.kill()

    def goes_on(self) -> None:
        """Wait until all agents take part in later iterations than the server's last."""
        now = len(self.directory.env.read_metrics())
        agents = [self.directory.agent(agent) for agent in range(self.directory.num_agents)]
        until(lambda: all((agent.read_metrics() or [{}])[-1].get("iteration", 0) > now for agent in agents))

    def has_completed(self) -> bool:
        """Whether Slurm says so."""
        return "COMPLETED" in say("scontrol", "show", "job", self.id)


def open_files(process: psutil.Process) -> list[Any]:
    try:
        return process.open_files()
    except psutil.Error:
        return []


needs_slurm = pytest.mark.skipif(shutil.which("slurmctld") is None, reason="no Slurm on this machine")


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
@needs_slurm
def test_a_job_survives_the_kill_of_either_step_and_of_one_agent(render):
    run = render(4, "--steps", 16000, "--sbatch=--time=30")
    job = Job(run)
    until(has_iterations(run, 20))
    for name in ("bash", "matrpo"):
        job.kill_step(name)
        job.goes_on()
    job.kill_agent(2)
    job.goes_on()
    until(job.has_completed)
    assert job.directory.latest_common_iteration() == 400


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
@needs_slurm
def test_a_job_of_two_servers_learns_what_one_process_does_to_the_bit(render, tmp_path):
    run = render(4, "--env-servers", 2, "--topology", "ring", "--sbatch=--time=30")
    until(Job(run).has_completed)
    single = checkpoints(train(tmp_path / "single", "--agents", "4", "--topology", "ring", "--in-process"))
    agents = {name: data for name, data in checkpoints(run).items() if name.startswith("agents")}
    assert agents == {name: data for name, data in single.items() if name.startswith("agents")}
    assert len(agents) == 8
    assert len(RunDirectory.open(run).environment_metrics()) == LAST


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
@needs_slurm
def test_a_job_of_two_servers_survives_the_kill_of_one(render):
    run = render(3, "--env-servers", 2, "--steps", 8000, "--sbatch=--time=30")
    job = Job(run)
    until(has_iterations(run, 20))
    job.kill_step("matrpo")
    job.goes_on()
    until(job.has_completed)
    assert job.directory.latest_common_iteration() == 200
