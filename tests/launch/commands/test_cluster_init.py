"""A run on several machines, all of them this one: its files, its keys, and its start over a stand-in for ssh."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from marks import slow
from running import TINY, checkpoints, free_ports, has_iterations, train_here, wait_for

from matrpo.errors import ConfigError
from matrpo.launch.cli import cli
from matrpo.launch.cluster.cluster_file import Cluster, host_of, port_of
from matrpo.launch.cluster.keys import key_path
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_directory import RunDirectory

SETTINGS = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
AGENTS = ["--agents", "3", "--topology", "line", "--admm-iterations", "24"]
LOCAL = ["--host", "127.0.0.1", "--env-host", "127.0.0.1"]


@pytest.fixture
def ssh(tmp_path: Path) -> Path:
    """A program that runs the command here and notes which host it was for."""
    script = tmp_path / "ssh"
    script.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/hosts\nshift\nexec sh -c "$*"\n')
    script.chmod(0o755)
    return script


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """matrpo, as it is installed on a machine."""
    script = tmp_path / "matrpo"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m matrpo.launch.cli "$@"\n')
    script.chmod(0o755)
    return script


def matrpo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command line that starts nothing, in the process of the test."""
    done = CliRunner().invoke(cli, arguments, prog_name="matrpo", standalone_mode=False, catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, done.return_value or 0, done.stdout, done.stderr)


def make(folder: Path, *arguments: str) -> Path:
    """A prepared run on this machine."""
    port = str(free_ports(6))
    result = matrpo("cluster", "init", "--out", str(folder), *SETTINGS, *AGENTS, *LOCAL, "--port", port, *arguments)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared run that no test changes."""
    return make(tmp_path_factory.mktemp("prepared") / "run")


def mistake(*arguments: str) -> str:
    """The one line that a mistake gives."""
    result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert isinstance(result.exception, ConfigError), (result.output, result.exception)
    assert "\n" not in str(result.exception)
    return str(result.exception)


def start(run: Path, ssh: Path, program: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "matrpo.launch.cli", "launch", "--cluster", str(run / "cluster.yaml"), "--ssh"]
    options = ["--ssh-command", str(ssh), "--remote-matrpo", str(program)]
    return subprocess.Popen([*command, *options, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True)


def processes_of(run: Path) -> list[psutil.Process]:
    """The run's processes, which know it by their folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(run) and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found


def soon(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_agents_are_spread_over_the_hosts_in_blocks(tmp_path: Path) -> None:
    run = tmp_path / "run"
    hosts = ["--host", "10.0.0.1", "--host", "robot-2.lab", "--env-host", "10.0.0.9", "--port", "6000"]
    result = matrpo("cluster", "init", "--agents", "12", "--topology", "ring", *hosts, "--out", str(run))
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    cluster = Cluster.load(run / "cluster.yaml")
    assert cluster.servers[0] == "tcp://10.0.0.9:6000"
    assert [host_of(endpoint) for endpoint in cluster.agents] == ["10.0.0.1"] * 6 + ["robot-2.lab"] * 6
    assert [port_of(endpoint) for endpoint in cluster.agents] == list(range(6001, 6013))
    assert cluster.graph.links == tuple(sorted((*((i, i + 1) for i in range(11)), (0, 11))))
    assert cluster.keys is not None
    assert cluster.security(ProcessId.agent(7))
    config = RunDirectory.open(run).config
    assert (config.agents, config.transport, config.insecure) == (12, "tcp", False)
    copies = [line.strip() for line in result.stderr.splitlines() if line.strip().startswith("tar ")]
    assert [copy.count("keys/") for copy in copies] == [1, 6, 6]
    assert "10.0.0.1: 6002, 6003, 6004, 6005, 6006" in result.stderr, "agent 0 dials, nobody dials it"
    assert "robot-2.lab: matrpo agent --id 11" in result.stderr


def test_what_the_copy_command_moves_is_private_on_the_other_machine(tmp_path: Path, ssh: Path) -> None:
    run = make(tmp_path / "run")
    rotated = matrpo("keys", "rotate", "--cluster", str(run / "cluster.yaml"))
    assert rotated.returncode == 0, rotated.stderr
    shutil.copytree(run, tmp_path / "kept")
    init = make(tmp_path / "other")
    line = next(line for line in rotated.stderr.splitlines() if "tar " in line).replace("| ssh ", f"| {ssh} ")
    archive = subprocess.run(line.split("|")[0], shell=True, capture_output=True, check=True).stdout
    (tmp_path / "archive").write_bytes(archive)
    with tarfile.open(tmp_path / "archive") as file:
        assert file.getnames() == [
            "cluster.yaml",
            *(f"keys/{name}.key" for name in ("env", "agent-00", "agent-01", "agent-02")),
        ]
    shutil.rmtree(init / "keys")
    subprocess.run(
        line.replace(f"mkdir -p {run}", f"mkdir -p {init}").replace(f"tar -C {run} -xpf", f"tar -C {init} -xpf"),
        shell=True,
        check=True,
    )
    assert Cluster.load(init / "cluster.yaml").security(ProcessId.agent(2)), (
        "the folder and the files are closed to others"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "a b"], ["'a b' is not the name of a host"]),
        (["--host", "10.0.0.300"], ["'10.0.0.300' is not the name of a host or an IPv4 address"]),
        (["--host", "a", "--host", "a"], ["--host a is there twice"]),
        (["--host", "a", "--port", "65535"], ["port"]),
        (["--host", "a", "--port", "64999", "--agents", "600"], ["65535 is the last"]),
        (["--host", "a", "--transport", "ipc"], ["--transport ipc", "tcp"]),
        (["--host", "a", "--topology", "cube"], ["topology"]),
        (["--host", "a", "--algo", "happo"], ["happo trains in one process"]),
        ([*(word for i in range(4) for word in ("--host", f"h{i}")), "--agents", "3"], ["4 hosts are too many for 3"]),
    ],
)
def test_mistakes_at_init_are_named_and_leave_nothing(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    text = mistake("cluster", "init", "--env-host", "b", "--out", str(tmp_path / "run"), *arguments)
    assert all(word in text for word in words), text
    assert not (tmp_path / "run").exists()


def test_a_run_of_two_servers_is_moved_in_the_order_of_its_ports(tmp_path: Path) -> None:
    file = make(tmp_path / "run", "--env-servers", "2") / "cluster.yaml"
    before = Cluster.load(file)
    assert "4 hosts: " in (text := mistake("cluster", "move", "--cluster", str(file), "a", "b", "c", "d"))
    assert "5 processes, 2 environment servers and agents" in text
    hosts = ["env", "one", "two", "three", "further"]
    assert matrpo("cluster", "move", "--cluster", str(file), *hosts).returncode == 0
    after = Cluster.load(file)
    in_order = [after.servers[0], *after.agents, after.servers[1]]
    assert [host_of(endpoint) for endpoint in in_order] == hosts
    first = port_of(before.servers[0])
    assert [port_of(endpoint) for endpoint in in_order] == list(range(first, first + 5))
    assert after.keys == before.keys


def test_new_keys_of_an_agent_concern_every_server(tmp_path: Path) -> None:
    file = str(make(tmp_path / "run", "--agents", "4", "--env-servers", "2") / "cluster.yaml")
    assert (
        "then restart env-server, env-server 1, agent 0, agent 1"
        in matrpo("keys", "rotate", "--cluster", file, "--id", "0").stderr
    )
    shared = matrpo("keys", "rotate", "--cluster", file, "--env").stderr
    assert "new keys for env-server, env-server 1; copy to every machine:" in shared
    assert shared.count("keys/env.key") == 1
    assert "then restart all processes" in shared


def test_without_keys_one_must_say_so_everywhere(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    file = str(run / "cluster.yaml")
    assert "has keys, and all others use them" in mistake("agent", "--cluster", file, "--id", "0", "--insecure")
    key_path(run / "cluster.yaml", ProcessId.agent(0)).chmod(0o644)
    assert "chmod 600" in mistake("agent", "--cluster", file, "--id", "0")
    key_path(run / "cluster.yaml", ProcessId.server()).unlink()
    assert "cannot read the secret key" in mistake("env-server", "--cluster", file)
    bare = tmp_path / "bare"
    arguments = ["cluster", "init", *AGENTS, *LOCAL, "--out", str(bare), "--insecure"]
    result = matrpo(*arguments)
    assert "INSECURE" in result.stderr
    assert not (bare / "keys").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["launch", "--cluster", "FILE"], "add --ssh"),
        (["launch", "--ssh"], "name its file with --cluster"),
        (["launch", "--cluster", "FILE", "--ssh", "--steps", "5"], "takes its settings from the run directory"),
        (["launch", "--cluster", "FILE", "--ssh", "--resume"], "takes its settings from the run directory"),
        (["launch", "--cluster", "FILE", "--ssh", "me"], "must end with @"),
        (["launch", "--cluster", "FILE", "--ssh", "--ssh-command", "no-such-program"], "no program 'no-such-program'"),
        (["launch", "--cluster", "FILE", "--ssh", "--insecure"], "leave --insecure out"),
        (["keys", "rotate", "--cluster", "FILE", "--id", "3"], "--id 3"),
        (["agent", "--cluster", "FILE", "--id", "3"], "--id 3: FILE has the agents 0 to 2, not 3"),
        (["env-server", "--cluster", "FILE", "--id", "1"], "--id 1: FILE has the environment servers 0 to 0, not 1"),
        (["env-server", "--cluster", "FILE", "--id", "x"], "--id x: expected an environment server's number, or auto"),
        (["probe", "--cluster", "FILE", "--env", "--id", "2"], "has the environment servers 0 to 0, not 2"),
        (["keys", "rotate", "--cluster", "FILE", "--id", "1", "--env"], "name one, or neither"),
    ],
)
def test_mistakes_with_a_cluster_are_named(prepared: Path, arguments: list[str], words: str) -> None:
    file = str(prepared / "cluster.yaml")
    assert words.replace("FILE", file) in mistake(*[file if word == "FILE" else word for word in arguments])


def test_a_run_over_ssh_equals_one_in_one_process(tmp_path: Path, ssh: Path, program: Path) -> None:
    run = make(tmp_path / "run")
    launcher = start(run, ssh, program)
    _, errors = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, errors
    assert (tmp_path / "hosts").read_text().split() == ["127.0.0.1"] * 4
    assert all(f"{name} on 127.0.0.1 | " in errors for name in ("env-server", "agent 0", "agent 2"))
    refused = [json.loads(line) for line in (run / "agents" / "01" / "metrics.jsonl").read_text().splitlines()]
    assert refused
    assert checkpoints(run) == checkpoints(train_here(tmp_path / "here", *AGENTS))


@pytest.mark.parametrize("number", [slow(signal.SIGINT), signal.SIGKILL])
def test_whatever_ends_the_launcher_ends_the_remote_processes(
    tmp_path: Path, ssh: Path, program: Path, number: signal.Signals
) -> None:
    run = make(tmp_path / "run", "--steps", "4000000")
    launcher = start(run, ssh, program)
    wait_for(has_iterations(run, 2), launcher)
    assert len(processes_of(run)) == 4
    launcher.send_signal(number)
    _, errors = launcher.communicate(timeout=30)
    assert launcher.returncode == (130 if number == signal.SIGINT else -number), errors
    assert soon(lambda: not processes_of(run), 15.0)
    assert RunDirectory.open(run).env.checkpoint_iterations()


def test_when_one_remote_process_fails_all_end(tmp_path: Path, ssh: Path, program: Path) -> None:
    run = make(tmp_path / "run", "--steps", "4000000")
    key_path(run / "cluster.yaml", ProcessId.agent(1)).unlink()
    launcher = start(run, ssh, program)
    _, errors = launcher.communicate(timeout=60)
    assert launcher.returncode == 2, errors
    assert "matrpo: error: agent 1 on 127.0.0.1 failed with status 2: matrpo: error: cannot read the secret" in errors
    assert soon(lambda: not processes_of(run), 15.0)


@pytest.mark.slow
@pytest.mark.parametrize("typed", [(), ("--no-restart",)])
def test_a_remote_process_that_is_killed_comes_back_unless_told_otherwise(
    tmp_path: Path, ssh: Path, program: Path, typed: tuple[str, ...]
) -> None:
    run = make(tmp_path / "run", "--steps", "4000000")
    launcher = start(run, ssh, program, *typed)
    wait_for(has_iterations(run, 2), launcher)
    victim = next(process for process in processes_of(run) if "matrpo agent 1" in " ".join(process.cmdline()))
    agents = RunDirectory.open(run)
    victim.kill()
    before = len(agents.agent(0).read_metrics())
    wait_for(lambda: len(agents.agent(0).read_metrics()) > before + 5, launcher)
    if not typed:
        beyond = len(agents.agent(1).read_metrics())
        wait_for(lambda: len(agents.agent(1).read_metrics()) > beyond + 2, launcher)
    launcher.send_signal(signal.SIGINT)
    _, errors = launcher.communicate(timeout=30)
    assert launcher.returncode == 130, errors
    how = "again in 0.5 s" if not typed else "is not started any more; the others go on"
    assert "agent 1 on 127.0.0.1 was killed or cut off" in errors
    assert how in errors
    assert soon(lambda: not processes_of(run), 15.0)


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["head -40", "tee log"])
def test_over_ssh_too_a_reader_that_is_gone_does_not_keep_the_state_from_being_saved(
    tmp_path: Path, ssh: Path, program: Path, lost: str
) -> None:
    run = make(tmp_path / "run", "--steps", "4000000", "--checkpoint-every", "1000000")
    command = [sys.executable, "-m", "matrpo.launch.cli", "launch", "--cluster", str(run / "cluster.yaml"), "--ssh"]
    line = shlex.join([*command, "--ssh-command", str(ssh), "--remote-matrpo", str(program)])
    line = f"{line} 2>&1 | {lost}; exit ${{PIPESTATUS[0]}}"
    shell = subprocess.Popen(["bash", "-c", line], stdout=subprocess.DEVNULL, cwd=tmp_path, start_new_session=True)
    wait_for(has_iterations(run, 4), shell)
    os.killpg(shell.pid, signal.SIGINT)
    assert shell.wait(60) == 130
    assert RunDirectory.open(run).latest_common_iteration() >= 2


def test_a_machine_that_ssh_cannot_reach_is_named(tmp_path: Path, program: Path) -> None:
    run = make(tmp_path / "run")
    script = tmp_path / "ssh"
    script.write_text("#!/bin/sh\necho 'ssh: connect to host 127.0.0.1 port 22: No route to host' >&2\nexit 255\n")
    script.chmod(0o755)
    launcher = start(run, script, program)
    _, errors = launcher.communicate(timeout=30)
    assert launcher.returncode == 2
    assert "cannot start env-server on 127.0.0.1 over ssh: ssh: connect to host 127.0.0.1 port 22: No route" in errors


@pytest.mark.slow
def test_rotated_keys_work_and_it_says_what_to_do(tmp_path: Path, ssh: Path, program: Path) -> None:
    run = make(tmp_path / "run")
    result = matrpo("keys", "rotate", "--cluster", str(run / "cluster.yaml"), "--id", "2")
    assert result.returncode == 0
    assert "new keys for agent 2; copy to every machine:" in result.stderr
    assert "cluster.yaml keys/agent-02.key | ssh 127.0.0.1" in result.stderr
    assert "then restart env-server, agent 2, agent 1" in result.stderr
    launcher = start(run, ssh, program)
    _, errors = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, errors


def test_the_doctor_finds_what_is_wrong(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    file = run / "cluster.yaml"
    healthy = matrpo("doctor", "--cluster", str(file))
    assert healthy.returncode == 0, healthy.stderr
    assert "with CURVE" in healthy.stderr
    assert "ok   the key of agent 2 is here" in healthy.stderr
    assert "the machine answers, nobody listens now" in healthy.stderr
    key_path(file, ProcessId.agent(2)).chmod(0o644)
    ill = matrpo("doctor", "--cluster", str(file))
    assert ill.returncode == 2
    assert f"bad  {key_path(file, ProcessId.agent(2))} can be read by others; protect it with: chmod 600" in ill.stderr
