"""What a seed runs under the simulator: a history of links and one of the lock step, with a user's fault script or not.

Faults have one language: the same words here as there, and `matrpo.faults.passage` says for both what one does to a
message. A fault script speaks of iterations, which take as long as they take; here, one takes a second. Where an entry
goes:

    drop, duplicate, corrupt    to the history of links
    delay, reorder              likewise, as a delay by up to as much
    partition                   likewise, for each group
    kill, stop                  to both histories, a server's to that of the lock step
    limit, hostile              left out: simulated messages have no size, and are not made of bytes

The other way, `script_of` says what a fault script can do to a run of what happens in a history. Left out is what no
process does to itself or to its links: messages and connections between agents and servers that are lost, processes
that are slow or silent, lost folders, lies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from matrpo.faults.fault import Fault as Entry
from matrpo.faults.fault import Trigger
from matrpo.faults.passage import OVERTAKEN
from matrpo.faults.script import FaultScript
from matrpo.runs.process_id import ProcessId
from matrpo.simulation.links import history as links
from matrpo.simulation.links.history import Fault, History
from matrpo.simulation.lock_step import history as lock_step
from matrpo.simulation.lock_step.history import LockStepHistory, ProcessFault
from matrpo.topology.graph import CommunicationGraph

LEFT_OUT = ("limit", "hostile")
_DELAYS = ("delay", "reorder")

_LASTS = 10.0
"""Seconds that a fault without an end lasts: at the end of every history there are none."""

_TIMES = 3
"""How often a fault that is repeated happens."""


@dataclass(frozen=True)
class Scenario:
    """A fault script for the simulators, with the graph and the servers that it is about.

    Attributes:
        agents, links, servers: of the run.
        of_links: what it does to the histories of links.
        of_processes: what it does to those of the lock step.
    """

    agents: int
    links: tuple[tuple[int, int], ...]
    servers: int
    of_links: tuple[Fault, ...]
    of_processes: tuple[ProcessFault, ...]

    @classmethod
    def of(cls, script: FaultScript, graph: CommunicationGraph, servers: int) -> Scenario:
        """Take from a script what the simulators know of."""
        of_links = tuple(fault for entry in script.faults for fault in _faults_of_links(entry, graph))
        of_processes = tuple(fault for entry in script.faults for fault in _faults_of_processes(entry))
        return cls(graph.num_agents, graph.links, servers, of_links, of_processes)

    def histories(self, seed: int) -> tuple[History, LockStepHistory]:
        """The histories of a seed, at least 0: all but who is there and what fails is drawn."""
        drawn, steps = links.generate(seed), lock_step.generate(seed)
        clocks = (drawn.clocks * self.agents)[: self.agents]
        stays_away = any(math.isinf(fault.stop) for fault in self.of_processes)
        rule = "noop" if stays_away and steps.rule == "wait" else steps.rule
        return (
            replace(drawn, agents=self.agents, links=self.links, clocks=clocks, faults=self.of_links),
            replace(steps, agents=self.agents, servers=self.servers, rule=rule, faults=self.of_processes),
        )


def generate(seed: int, scenario: Scenario | None = None) -> tuple[History, LockStepHistory]:
    """The histories of a seed, at least 0, of links and of the lock step."""
    return scenario.histories(seed) if scenario else (links.generate(seed), lock_step.generate(seed))


def parse(text: str) -> History | LockStepHistory:
    """Parse a history of either kind from its line.

    Raises:
        ValueError: it is no such line. The text is the reason.
    """
    return lock_step.parse(text) if text.startswith(lock_step.PREFIX) else links.parse(text)


def script_of(history: History | LockStepHistory) -> tuple[list[dict[str, Any]], list[str]]:
    """The entries of a fault script that do to a run what happens in a history, by the clock of each process.

    Returns:
        The entries, and the faults of the history that are left out.
    """
    entries = [(fault, _entry_of(fault, history.agents)) for fault in history.faults]
    return [entry for _, entry in entries if entry], [str(fault) for fault, entry in entries if entry is None]


def _entry_of(fault: Fault | ProcessFault, agents: int) -> dict[str, Any] | None:
    begin, seconds = {"from": {"seconds": fault.start}}, round(fault.stop - fault.start, 3)
    if fault.kind in ("stop", "kill", "reset"):
        name = str(fault.where[0])
        number = int(name.lstrip("as"))
        process = ProcessId.server(number) if name.startswith("s") else ProcessId.agent(number)
        if fault.kind == "stop":
            return {"do": "stop", "process": process.name, **begin, "for": seconds}
        returns = {"restart_after": seconds} if math.isfinite(seconds) else {}
        return {"do": "kill", "process": process.name, **begin, **returns}
    if isinstance(fault, ProcessFault):
        return None
    if fault.kind == "partition":
        others = [agent for agent in range(agents) if agent not in fault.where]
        return {"do": "partition", "groups": [list(fault.where), others], **begin, "for": seconds}
    is_delay = fault.kind == "delay"
    amounts = {"seconds": 0.0, "jitter": fault.amount} if is_delay else {"probability": fault.amount}
    where = {"links": [">".join(map(str, fault.where))]} if fault.where else {}
    return {"do": fault.kind, **amounts, **where, **begin, "for": seconds}


def _faults_of_links(entry: Entry, graph: CommunicationGraph) -> Iterator[Fault]:
    if entry.process is not None:
        if not entry.process.is_server:
            yield from (Fault(entry.kind, start, stop, (entry.process.number,)) for start, stop in _times(entry))
        return
    for start, stop in _times(entry):
        if entry.kind == "partition":
            yield from (Fault("partition", start, stop, group) for group in _groups(entry, graph))
        elif entry.kind not in LEFT_OUT:
            is_delay = entry.kind in _DELAYS
            late = entry.amounts.get("seconds", OVERTAKEN) + entry.amounts.get("jitter", 0.0)
            kind, amount = ("delay", late) if is_delay else (entry.kind, entry.amounts["probability"])
            everywhere = len(entry.directions) == 2 * len(graph.links)
            for where in [()] if everywhere else sorted(entry.directions):
                yield Fault(kind, start, stop, where, amount)


def _faults_of_processes(entry: Entry) -> Iterator[ProcessFault]:
    if entry.process is None:
        return
    name = f"{'s' if entry.process.is_server else 'a'}{entry.process.number}"
    yield from (ProcessFault(entry.kind, start, stop, (name,)) for start, stop in _times(entry))


def _times(entry: Entry) -> Iterator[tuple[float, float]]:
    """When a fault begins and ends, each time that it happens."""
    begin = _seconds(entry.begin)
    if entry.kind == "kill":
        yield begin, begin + entry.amounts.get("restart_after", math.inf)
        return
    end = begin + _LASTS if entry.end is None else _seconds(entry.end)
    for time in range(_TIMES if entry.every else 1):
        start = begin + time * (entry.every or 0.0)
        stop = end if entry.lasts is None else start + entry.lasts
        if stop > start:
            yield start, stop


def _seconds(trigger: Trigger) -> float:
    return trigger.seconds + max(0, trigger.iteration - 1) + (0.5 if trigger.phase == "consensus" else 0.0)


def _groups(entry: Entry, graph: CommunicationGraph) -> Iterator[tuple[int, ...]]:
    """The groups that a partition cuts off from the others: the connected parts of what it leaves, but for one."""
    unseen = set(range(graph.num_agents))
    while unseen:
        group, new = set[int](), {min(unseen)}
        while new:
            group |= new
            new = {j for i in new for j in graph.neighbours(i) if (i, j) not in entry.directions} - group
        unseen -= group
        if unseen:
            yield tuple(sorted(group))
