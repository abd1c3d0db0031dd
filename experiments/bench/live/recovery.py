"""Failure detection and recovery: seconds until a dead, stopped or cut-off agent is noticed and back; others' loss."""

from __future__ import annotations

import datetime
import re
import signal
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from matrpo.experiments.bench.live.isolated_hosts import HostsError, IsolatedHosts
from matrpo.experiments.bench.live.launching import ClusterRun, LaunchedRun
from matrpo.experiments.bench.report import Goal, Report, Row, Say
from matrpo.runs.run_directory import ProcessDirectory

_LINE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) \w+ (.*)$")
_LATEST_DETECTION = 3.0
_LATEST_RETURN = 5.0
_LEAST_RATE = 0.95
_REST = 1.0
"""Seconds without faults after each trial."""


def run(agents: int, trials: int, quick: bool, say: Say) -> Report:
    """Kill agents one after the other, with `--restart`; stop them, pull their cables, and kill one for good.

    Args:
        agents: N, on a ring.
        trials: kills, stops, and pulled cables.
        quick: short windows.
        say: told about the progress.
    """
    trials, window = (2, 3.0) if quick else (trials, 20.0)
    settings: dict[str, Any] = {"topology": "ring", "num_envs": 4, "rollout_length": 10, "hidden_sizes": [8, 8]}
    settings |= {"steps": 40_000_000, "checkpoint_every": 5, "tensorboard": False}
    say(f"{trials} kills and {trials} stops in a run of {agents} agents")
    kills: list[dict[str, float]] = []
    stops: list[dict[str, float]] = []
    with LaunchedRun(agents, settings, ["--restart"]) as launched:
        launched.wait_for(3)
        for trial in range(trials):
            kills.append(_kill(launched, trial % agents, agents))
            say(f"kill {trial + 1}: {_describe(kills[-1])}")
        for trial in range(trials):
            stops.append(_stop(launched, trial % agents, agents))
            say(f"stop {trial + 1}: {_describe(stops[-1])}")
    events = {"SIGKILL": kills, "SIGSTOP": stops}
    try:
        with IsolatedHosts(agents + 1) as hosts:
            say(f"{trials} pulled cables in a run on {agents + 1} machines")
            events["silent partition"] = _cut_off(hosts, settings, trials, say)
    except HostsError as error:
        say(f"a silent partition is NOT measured: {error}")
    say(f"one agent dead for good: {window:g} s before and after")
    rates = _far_rates(agents, settings, window)
    rows = [
        _row(f"{event}: {name}", [trial[name] for trial in measured])
        for event, measured in events.items()
        for name in measured[0]
    ]
    goals = [_goal(row) for row in rows]
    goals += [
        Goal(f"agent {row['agent']}, {row['hops']} hops away: rate kept", float(row["kept"]), _LEAST_RATE)
        for row in rates
    ]
    tables = {"seconds": rows, "activations per second of agents two or more hops from a dead one": rates}
    return Report("recovery", {**settings, "agents": agents, "trials": trials, "window": window}, tables, goals)


def _kill(launched: LaunchedRun, victim: int, agents: int) -> dict[str, float]:
    """One trial with SIGKILL; the launcher starts the agent again."""
    now = time.time()
    launched.agent_processes()[victim].kill()
    trial = _detection(launched, victim, agents, now)
    launched.wait(lambda: _lives(launched, victim))
    up = launched.agent_processes()[victim].create_time()
    trial["first commit after the process is up"] = _first_commit(launched, victim, up) - up
    time.sleep(_REST)
    return trial


def _stop(launched: LaunchedRun, victim: int, agents: int) -> dict[str, float]:
    """One trial with SIGSTOP, and SIGCONT once all have noticed."""
    process = launched.agent_processes()[victim]
    now = time.time()
    process.send_signal(signal.SIGSTOP)
    trial = _detection(launched, victim, agents, now)
    resumed = time.time()
    process.send_signal(signal.SIGCONT)
    trial["first commit after it goes on"] = _first_commit(launched, victim, resumed) - resumed
    time.sleep(_REST)
    return trial


def _cut_off(hosts: IsolatedHosts, settings: dict[str, Any], trials: int, say: Say) -> list[dict[str, float]]:
    """Trials with an agent's cable pulled, and put back once all have noticed."""
    agents = len(hosts.addresses) - 1
    measured = []
    with ClusterRun(hosts, settings) as launched:
        launched.wait(lambda: all(len(agent.read_metrics()) >= 3 for agent in launched.agents))
        for number in range(trials):
            victim = number % agents
            now = time.time()
            hosts.pull_cable(victim)
            trial = _detection(launched, victim, agents, now)
            back = time.time()
            hosts.put_cable_back(victim)
            trial["first commit after the cable is back"] = _first_commit(launched, victim, back) - back
            measured.append(trial)
            say(f"cable {number + 1}: {_describe(trial)}")
            time.sleep(_REST)
    return measured


def _detection(launched: LaunchedRun | ClusterRun, victim: int, agents: int, since: float) -> dict[str, float]:
    """Seconds until the victim's neighbours and the environment server have each logged the failure."""
    before, after = sorted(((victim - 1) % agents, (victim + 1) % agents))
    watchers = {
        "noticed by the first neighbour": (launched.agents[before], f"the connection to agent {victim} is lost"),
        "noticed by the second neighbour": (launched.agents[after], f"the connection to agent {victim} is lost"),
        "noticed by the environment server": (launched.environment, f"agent {victim} (is lost|was restarted)"),
    }
    return {name: _logged(launched, *watcher, since) - since for name, watcher in watchers.items()}


def _logged(launched: LaunchedRun | ClusterRun, process: ProcessDirectory, pattern: str, since: float) -> float:
    """The time of the first log line since `since` whose message begins with a pattern."""
    found: list[float] = []

    def there() -> bool:
        for line in process.log_path.read_text().splitlines():
            match = _LINE.match(line)
            if match and re.match(pattern, match[2]):
                at = datetime.datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()
                if at >= since - 1e-3:
                    found.append(at)
                    return True
        return False

    launched.wait(there)
    return found[0]


def _lives(launched: LaunchedRun, agent: int) -> bool:
    return any(" ".join(process.cmdline()).strip() == f"matrpo agent {agent}" for process in launched.processes())


def _first_commit(launched: LaunchedRun | ClusterRun, agent: int, since: float) -> float:
    """The end of the first new iteration since `since` in which an agent exchanged log ratios."""
    found: list[float] = []
    begun = max(line["iteration"] for line in launched.environment.read_metrics()[-3:])

    def there() -> bool:
        new = [line for line in launched.agents[agent].read_metrics()[-50:] if line["iteration"] > begun]
        found.extend(line["time"] for line in new if line["time"] > since and line["commits"] > 0)
        return bool(found)

    launched.wait(there)
    return found[0]


def _far_rates(agents: int, settings: dict[str, Any], window: float) -> list[Row]:
    """Activations per second of agents far from a dead one, before its death and after it was noticed."""
    victim = 0
    rows: list[Row] = []
    with LaunchedRun(agents, settings) as launched:
        launched.wait_for(3)
        begin = time.time()
        time.sleep(window)
        killed = time.time()
        launched.agent_processes()[victim].kill()
        noticed = killed + max(_detection(launched, victim, agents, killed).values())
        time.sleep(max(0.0, noticed + window - time.time()))
        end = time.time()
        for agent in range(2, agents - 1):
            lines = launched.agents[agent].read_metrics()
            before, after = _rate(lines, begin, killed), _rate(lines, noticed, end)
            hops = min(agent, agents - agent)
            rows.append({"agent": agent, "hops": hops, "before": before, "after": after, "kept": after / before})
    return rows


def _rate(lines: Sequence[dict[str, Any]], begin: float, end: float) -> float:
    """Commits per second of the iterations that ended in a window."""
    inside = [line for line in lines if begin <= line["time"] <= end]
    if len(inside) < 2:
        raise RuntimeError("the window is too short: it holds no two iterations")
    seconds = inside[-1]["time"] - inside[0]["time"]
    return float(sum(line["commits"] for line in inside[1:]) / seconds)


def _row(what: str, seconds: Sequence[float]) -> Row:
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"what": what, "trials": len(seconds), "p50": float(p50), "p99": float(p99), "max": max(seconds)}


def _goal(row: Row) -> Goal:
    limit = _LATEST_DETECTION if "noticed" in str(row["what"]) else _LATEST_RETURN
    return Goal(f"{row['what']}, p99", float(row["p99"]), limit, at_least=False)


def _describe(trial: dict[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in trial.items())
