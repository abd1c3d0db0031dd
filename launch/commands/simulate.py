"""`matrpo simulate`: randomised fault injection into the simulated protocols, on all cores, and replay of one."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path

import click
import yaml
from rich.console import Console
from rich.progress import Progress, TaskID

from matrpo.errors import ConfigError
from matrpo.faults.script import FaultScript
from matrpo.simulation.links.history import History
from matrpo.simulation.links.simulator import simulate
from matrpo.simulation.lock_step.history import LockStepHistory
from matrpo.simulation.lock_step.simulator import simulate_lock_step
from matrpo.simulation.outcome import Outcome, Trace
from matrpo.simulation.scenario import LEFT_OUT, Scenario, generate, parse, script_of
from matrpo.simulation.shrink import AnyHistory, shrink
from matrpo.topology import CommunicationGraph, TopologyError, make_graph, save_graph

_BATCH = 50
_LINE_EVERY = 10.0
"""Seconds between two progress lines where standard error is no terminal."""


@dataclass(frozen=True)
class Failure:
    """A seed of which a history violates an invariant, and the command that replays it, shrunk."""

    seed: int
    invariant: str
    violation: str
    replay: str

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.violation}\n  {self.replay}"


@dataclass
class Totals:
    """The numbers of histories (one of links with one of the lock step) and events, and the failures, so far."""

    histories: int = 0
    events: int = 0
    failures: list[Failure] = field(default_factory=list)

    def add(self, others: Totals) -> None:
        """Count others, too."""
        self.histories += others.histories
        self.events += others.events
        self.failures += others.failures


@click.command("simulate")
@click.option("--seeds", type=click.IntRange(min=1), default=1000, show_default=True, metavar="N", help="Histories.")
@click.option("--first", type=click.IntRange(min=0), default=0, show_default=True, metavar="S", help="The first seed.")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=os.cpu_count(), show_default="cores", help="Worker processes."
)
@click.option("--replay", metavar="SPEC", help="Run this one history instead, and print what happens.")
@click.option("--as-script", metavar="FILE", help="With --replay: write a fault script that does it to a real run.")
@click.option("--faults", metavar="FILE", help="In every history, what this fault script says, in place of others.")
@click.option("--agents", type=click.IntRange(min=1), default=3, show_default=True, help="With --faults: how many.")
@click.option("--topology", default="ring", show_default=True, help="With --faults: the agents' graph.")
@click.option(
    "--env-servers", type=click.IntRange(min=1), default=1, show_default=True, help="With --faults: how many."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def simulate_histories(
    seeds: int,
    first: int,
    jobs: int,
    replay: str | None,
    as_script: str | None,
    faults: str | None,
    agents: int,
    topology: str,
    env_servers: int,
    as_json: bool,
) -> int:
    """Run both protocols through random histories of faults, and check them after every event.

    A seed has two histories: the links of the agents, and the lock step of agents and environment servers. Their real
    state machines live on a simulated network with simulated clocks: messages are lost, repeated, reordered, delayed
    and corrupted, agents and servers are paused, killed and restarted, and one agent may lie. Exit status 1 if an
    invariant does not hold.

    Of a fault script, --faults leaves out `limit` and `hostile`. An iteration counts for a second; what has no end
    lasts ten, and what is repeated happens three times.

    The other way, --replay SPEC --as-script FILE writes down what happens in a history, and prints the command that
    lets it happen to a real run: faults begin so many seconds after a process has.
    """
    if as_script is not None and (replay is None or as_json):
        raise ConfigError("--as-script FILE needs --replay SPEC, and no --json")
    if replay is not None:
        history = _parse(replay)
        return _replay(history, as_json) if as_script is None else _write_script(history, Path(as_script))
    scenario = _scenario(faults, agents, topology, env_servers) if faults is not None else None
    began = time.monotonic()
    totals = Totals()
    with _report(seeds) as report:
        for batch in _run(first, seeds, jobs, scenario):
            totals.add(batch)
            for failure in batch.failures:
                click.echo(failure, err=as_json)
            report.show(totals)
    totals.failures.sort(key=lambda failure: failure.seed)
    _print(totals, time.monotonic() - began, as_json)
    return 1 if totals.failures else 0


def _scenario(faults: str, agents: int, topology: str, servers: int) -> Scenario:
    try:
        graph = make_graph(topology, agents, 0)
    except TopologyError as error:
        raise ConfigError(f"--topology: {error}") from None
    script = FaultScript.load(faults, graph, servers)
    for entry in script.faults:
        if entry.kind in LEFT_OUT:
            click.echo(f"fault {entry.number + 1}: {entry.kind} is left out", err=True)
    scenario = Scenario.of(script, graph, servers)
    try:
        for history in scenario.histories(0):
            parse(str(history))
    except ValueError as error:
        raise ConfigError(f"--faults {faults} is too large to simulate: {error}") from None
    return scenario


def _print(totals: Totals, seconds: float, as_json: bool) -> None:
    speeds = {"events_per_second": totals.events / seconds, "histories_per_second": totals.histories / seconds}
    if as_json:
        document = asdict(totals) | {"violations": len(totals.failures), "seconds": seconds} | speeds
        click.echo(json.dumps(document, indent=2))
        return
    speed = f"{speeds['events_per_second']:.0f} events/s, {speeds['histories_per_second']:.0f} histories/s"
    click.echo(f"{totals.events} events in {seconds:.1f} s: {speed}")
    click.echo(f"{totals.histories} histories, {len(totals.failures)} violations")


def _parse(spec: str) -> History | LockStepHistory:
    try:
        return parse(spec)
    except ValueError as error:
        raise ConfigError(f"--replay: {error}") from None


def _write_script(history: History | LockStepHistory, path: Path) -> int:
    """Write a history down as a fault script, with its graph if that has no name, and print how to launch with it."""
    entries, left_out = script_of(history)
    if not entries:
        raise ConfigError("--as-script: there is no fault in this history that a fault script can name")
    command = ["matrpo", "launch", "--agents", str(history.agents)]
    try:
        if isinstance(history, History):
            command += ["--topology", _topology(history.graph, path), "--admm-iterations", str(history.k)]
            command += ["--schedule", history.schedule]
        else:
            command += ["--env-servers", str(history.servers), "--on-agent-loss", history.rule]
        path.write_text(yaml.safe_dump({"faults": entries}, sort_keys=False, default_flow_style=None))
    except TopologyError as error:
        raise ConfigError(f"--as-script: {error}") from None
    except OSError as error:
        raise ConfigError(f"--as-script {path}: {error.strerror}") from None
    for fault in left_out:
        click.echo(f"{fault} is left out", err=True)
    click.echo(shlex.join([*command, "--faults", str(path)]))
    return 0


def _topology(graph: CommunicationGraph, script: Path) -> str:
    """The name of a graph for `--topology`, or a file beside the script with its links."""
    for name, fewest in (("line", 2), ("ring", 3), ("star", 2), ("complete", 2)):
        if graph.num_agents >= fewest and make_graph(name, graph.num_agents, 0).links == graph.links:
            return name
    path = script.with_suffix(".links.json")
    save_graph(graph, path)
    return str(path)


def _replay(history: History | LockStepHistory, as_json: bool) -> int:
    """Run one history and print every event of it."""
    lines: list[tuple[float, str]] = []
    outcome = _simulate(history, lambda now, text: lines.append((now, text)))
    violation = outcome.violation
    if as_json:
        trace = [{"time": now, "event": text} for now, text in lines]
        found = str(violation) if violation else None
        click.echo(json.dumps({"events": outcome.events, "violation": found, "trace": trace}, indent=2))
    else:
        for now, text in lines:
            click.echo(f"{now:9.3f}  {text}")
        click.echo(f"1 histories, {int(violation is not None)} violations")
    return 1 if violation else 0


def _simulate(history: History | LockStepHistory, trace: Trace | None = None) -> Outcome:
    if isinstance(history, History):
        return simulate(history, trace=trace)
    return simulate_lock_step(history, trace=trace)


def check_seed(seed: int, scenario: Scenario | None = None) -> Totals:
    """Run the histories of a seed; shrink one that fails."""
    of_links, of_lock_step = generate(seed, scenario)
    checks = [_check(seed, of_links), _check(seed, of_lock_step)]
    failures = [failure for _, failure in checks if failure is not None]
    return Totals(1, sum(events for events, _ in checks), failures)


def _check(seed: int, history: AnyHistory) -> tuple[int, Failure | None]:
    """Run a history; returns its events, and what is wrong."""
    outcome = _simulate(history)
    violation = outcome.violation
    if violation is None:
        return outcome.events, None

    def fails(simpler: AnyHistory) -> bool:
        found = _simulate(simpler).violation
        return found is not None and found.invariant == violation.invariant

    spec = shlex.quote(str(shrink(history, fails)))
    return outcome.events, Failure(seed, violation.invariant, str(violation), f"matrpo simulate --replay {spec}")


# Worker processes


def _run(first: int, seeds: int, jobs: int, scenario: Scenario | None) -> Iterator[Totals]:
    """Check seeds in worker processes and yield the totals of each batch; however this ends, no worker is left.

    Raises:
        RuntimeError: a worker died.
    """
    context = multiprocessing.get_context("spawn")
    starts = range(first, first + seeds, _BATCH)
    workers, pipes = [], []
    resource_tracker.ensure_running()  # Starting it later would unblock the signal.
    try:
        with _interrupts_later():
            for job in range(min(jobs, len(starts))):
                receiver, sender = context.Pipe(duplex=False)
                work = (sender, list(starts[job::jobs]), first + seeds, scenario)
                worker = context.Process(target=_work, args=work, daemon=True)
                worker.start()
                sender.close()
                workers.append(worker)
                pipes.append(receiver)
        yield from _collect(pipes, len(starts))
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Block SIGINT (Ctrl-C) until the end of the block. Processes started in it never see one: they inherit the mask.

    The mask is this thread's alone: where another takes the signal, Python would still interrupt this one.
    """
    interrupts: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if interrupts:
            signal.raise_signal(signal.SIGINT)


def _collect(pipes: list[Connection], batches: int) -> Iterator[Totals]:
    open_pipes = list(pipes)
    while batches:
        for pipe in wait(open_pipes):
            assert isinstance(pipe, Connection)
            try:
                document = json.loads(pipe.recv_bytes())
            except EOFError:
                open_pipes.remove(pipe)
                if not open_pipes:
                    raise RuntimeError("a worker process of the simulator died") from None
                continue
            failures = [Failure(**failure) for failure in document["failures"]]
            yield Totals(document["histories"], document["events"], failures)
            batches -= 1


def _work(pipe: Connection, starts: list[int], end: int, scenario: Scenario | None) -> None:
    """Main function of a worker process: check batches of seeds until all are done, or the pipe is closed."""
    gc.disable()  # a history leaves few cycles, but makes it look for them all the time
    for start in starts:
        gc.collect()
        batch = Totals()
        for seed in range(start, min(start + _BATCH, end)):
            batch.add(check_seed(seed, scenario))
        try:
            pipe.send_bytes(json.dumps(asdict(batch)).encode())
        except OSError:
            return


# Progress


class _Bar:
    """A progress bar on a terminal."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def show(self, totals: Totals) -> None:
        text = f"{len(totals.failures)} violations"
        self._progress.update(self._task, completed=totals.histories, description=text)


class _Lines:
    """A line now and then, where there is no terminal."""

    def __init__(self, seeds: int) -> None:
        self._seeds = seeds
        self._next = time.monotonic() + _LINE_EVERY

    def show(self, totals: Totals) -> None:
        if time.monotonic() >= self._next:
            self._next += _LINE_EVERY
            text = f"{totals.histories} of {self._seeds} histories, {len(totals.failures)} violations"
            click.echo(text, err=True)


@contextmanager
def _report(seeds: int) -> Iterator[_Bar | _Lines]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(seeds)
        return
    with Progress(console=console) as progress:
        yield _Bar(progress, progress.add_task("0 violations", total=seeds))
