"""Processes of real runs are killed, stopped and started again: the others go on, and they come back."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from running import (
    LAST,
    has_iterations,
    names,
    session_of,
    socket_directory,
    start,
    survivors,
    train,
    wait_for,
)

from matrpo.runs.run_directory import RunDirectory

RING = ("--agents", "4", "--checkpoint-every", "2", "--admm-iterations", "24")
ENDLESS = ("--steps", "4000000")
FOREVER = ("--link-deadline", "1000")
"""No deadline helps: who is lost must be noticed."""


def lines(run: Path, agent: int) -> list[dict[str, Any]]:
    return RunDirectory.open(run).agent(agent).read_metrics()


def last(run: Path, *agents: int) -> int:
    """The last iteration that all these agents have finished."""
    return min((found[-1]["iteration"] if (found := lines(run, agent)) else 0) for agent in agents)


def beyond(run: Path, count: int, *agents: int) -> Callable[[], bool]:
    """Whether all these agents have finished so many more iterations than any agent has now."""
    goal = max(last(run, agent) for agent in range(4)) + count
    return lambda: last(run, *agents) >= goal


def commits_again(run: Path, agent: int) -> Callable[[], bool]:
    """Whether an agent has exchanged ratios in an iteration later than any so far."""
    now = max(last(run, other) for other in range(4))
    return lambda: lines(run, agent)[-1]["iteration"] > now and lines(run, agent)[-1]["commits"] > 0


def process_of(launcher: subprocess.Popen[str], name: str) -> psutil.Process:
    """A process of a run, once it has its name."""
    wait_for(lambda: f"matrpo {name}" in names(session_of(launcher)), launcher)
    return next(process for process in session_of(launcher) if names([process]) == [f"matrpo {name}"])


def assert_well_formed(run: Path) -> None:
    """Iterations only grow, in every process's metrics; checkpoints can be read."""
    for process in RunDirectory.open(run).processes().values():
        iterations = [line["iteration"] for line in process.read_metrics()]
        assert iterations == sorted(set(iterations))
        for iteration in process.checkpoint_iterations():
            process.load_checkpoint(iteration)


def test_agents_that_are_killed_or_stopped_are_missed_by_nobody_for_long_and_come_back(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with start(run, *RING, *ENDLESS, *FOREVER) as launcher:
        wait_for(has_iterations(run, 3), launcher)
        process_of(launcher, "agent 2").kill()
        wait_for(beyond(run, 4, 0, 1, 3), launcher)
        assert lines(run, 1)[-1]["links"]["2"]["state"] == "down"
        assert lines(run, 1)[-1]["links"]["2"]["commits"] == 0
        assert lines(run, 1)[-1]["links"]["0"]["commits"] > 0
        assert RunDirectory.open(run).env.read_metrics()[-1]["agents_absent"] == 1
        command = [sys.executable, "-m", "matrpo.launch.cli", "agent", "--id", "2"]
        by_hand = subprocess.Popen([*command, "--cluster", str(run / "cluster.yaml")], stderr=subprocess.DEVNULL)
        wait_for(commits_again(run, 2), launcher)
        stopped = process_of(launcher, "agent 1")
        stopped.suspend()
        wait_for(beyond(run, 4, 0, 2, 3), launcher)
        stopped.resume()
        wait_for(commits_again(run, 1), launcher)
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(20) == 130
        assert by_hand.wait(20) == 130
        assert launcher.stderr is not None
        errors = launcher.stderr.read()
    assert "agent 2 was killed by SIGKILL; the others go on" in errors
    assert_well_formed(run)
    goal = RunDirectory.open(run).resume_point().iteration + 2
    train(run, *RING, "--steps", str(40 * goal), "--resume")
    assert RunDirectory.open(run).latest_common_iteration() == goal


def test_with_restart_everything_that_is_killed_comes_back(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with start(run, *RING, *ENDLESS, *FOREVER, "--restart") as launcher:
        wait_for(has_iterations(run, 3), launcher)
        process_of(launcher, "env-server").kill()
        wait_for(beyond(run, 3, 0, 1, 2, 3), launcher)
        process_of(launcher, "agent 0").kill()
        wait_for(commits_again(run, 0), launcher)
        everyone = session_of(launcher)
        process_of(launcher, "agent 3").suspend()
        launcher.kill()
        launcher.wait(5)
        assert survivors(everyone, within=5) == []
        assert not socket_directory(run).exists()
    env = RunDirectory.open(run).env
    log = env.log_path.read_text()
    assert "new episodes begin" in log
    assert_well_formed(run)
    before = RunDirectory.open(run).resume_point().iteration
    assert before >= 2
    train(run, *RING, "--steps", str(40 * (before + 2)), "--resume")
    assert RunDirectory.open(run).latest_common_iteration() == before + 2
    assert not list(run.glob("**/*.tmp"))


def test_a_lost_agent_fails_the_run_only_at_its_end(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with start(run, *RING, "--steps", "800") as launcher:
        wait_for(has_iterations(run, 1), launcher)
        process_of(launcher, "agent 3").kill()
        assert launcher.wait(60) == 1
        assert launcher.stderr is not None
        errors = launcher.stderr.read()
    assert "matrpo: error: the run is over, but without agent 3" in errors
    assert last(run, 0, 1, 2) == 20
    newest = max(RunDirectory.open(run).agent(3).checkpoint_iterations(), default=0)
    with start(run, *RING, "--steps", "880", "--resume") as launcher:
        assert launcher.stderr is not None
        errors = launcher.stderr.read()
        assert launcher.wait(60) == 0
    state = f"its checkpoint of iteration {newest}" if newest else "a new policy"
    assert f"agent 3 has no checkpoint of iteration 20: it joins with {state}" in errors
    assert last(run, 0, 1, 2, 3) == 22
    assert lines(run, 3)[-1]["commits"] > 0


@pytest.mark.parametrize(
    ("rule", "victim", "folder"), [("abort", "agent 2", "agents/02"), ("noop", "env-server", "env")]
)
def test_what_ends_a_run(tmp_path: Path, rule: str, victim: str, folder: str) -> None:
    run = tmp_path / "run"
    with start(run, *RING, *ENDLESS, "--on-agent-loss", rule) as launcher:
        wait_for(has_iterations(run, 2), launcher)
        everyone = session_of(launcher)
        process_of(launcher, victim).kill()
        assert launcher.wait(20) == 1
        assert launcher.stderr is not None
        errors = launcher.stderr.read()
    assert f"matrpo: error: {victim} failed: killed by SIGKILL" in errors
    assert str(run / folder / "log.txt") in errors
    assert survivors(everyone, within=2) == []
    if victim == "env-server":
        train(run, *RING, "--steps", "480", "--resume")
        assert RunDirectory.open(run).resume_point().iteration == LAST


def wait_for_others(run: Path, victim: int, launcher: subprocess.Popen[str]) -> None:
    """Wait until the others have gone on, and kill the launcher; a run that had not begun ends by itself."""
    others_went_on = beyond(run, 1, *({0, 1, 2, 3} - {victim}))
    deadline = time.monotonic() + 60
    while launcher.poll() is None and not others_went_on():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if launcher.poll() is None:
        launcher.kill()
    else:
        assert launcher.returncode == 1


@pytest.mark.slow
def test_fifty_random_kills_and_a_resume_after_each(tmp_path: Path) -> None:
    """Of the launcher, the server or any agent: no orphan, no broken file, and --resume always goes on."""
    run, dice = tmp_path / "run", random.Random(0)
    resume: tuple[str, ...] = ()
    for _ in range(50):
        with start(run, *RING, *ENDLESS, *resume) as launcher:
            wait_for(lambda: len(names(session_of(launcher))) >= 6, launcher)
            everyone = session_of(launcher)
            time.sleep(dice.uniform(0.0, 4.0))
            victim = dice.choice(["launcher", "env-server", *(f"agent {agent}" for agent in range(4))])
            if victim == "launcher":
                launcher.kill()
            else:
                process_of(launcher, victim).kill()
                if victim != "env-server":
                    wait_for_others(run, int(victim[-1]), launcher)
            launcher.wait(20)
            assert survivors(everyone, within=5) == []
        assert_well_formed(run)
        resume = ("--resume",)
    goal = RunDirectory.open(run).resume_point().iteration + 2
    train(run, *RING, "--steps", str(40 * goal), "--resume")
    assert RunDirectory.open(run).latest_common_iteration() == goal
