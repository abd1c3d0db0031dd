"""The iteration from which a run can be resumed: what its processes have on disk, and what of that is whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from matrpo.runs.process_directory import DamagedCheckpointError, ProcessDirectory
from matrpo.runs.process_id import ProcessId, Role

_Found = Mapping[ProcessId, set[int]]
"""The iterations of which each process has a checkpoint."""


@dataclass(frozen=True)
class ResumePoint:
    """Iteration from which a run can be resumed.

    Attributes:
        iteration: the last one that is kept; 0 if nothing can be.
        laggards: the newest checkpoint of each agent that has none of that iteration; 0 if it has none at all.
        damaged: a line on each checkpoint that would have been used, were it whole.
        refusal: why the run cannot be resumed although there are checkpoints; empty if it can, or there are none.
    """

    iteration: int
    laggards: dict[int, int]
    damaged: tuple[str, ...] = ()
    refusal: str = field(default="", compare=False)


def find_resume_point(processes: Mapping[ProcessId, ProcessDirectory], laggards: bool, first_due: int) -> ResumePoint:
    """The latest iteration of which all processes have a whole checkpoint, else with as few laggards as possible.

    The environment's checkpoint fixes the iteration; an agent that was dead for long continues from its own newest.

    Args:
        processes: the files of all processes of the run.
        laggards: an agent may lack the iteration.
        first_due: the iteration whose checkpoint is the first that a process writes if it is not stopped before.

    Raises:
        ConfigError: the metrics of a process cannot be read.
    """
    found = {process: set(directory.checkpoint_iterations()) for process, directory in processes.items()}
    anything = any(found.values()) and not _ended_before_first(processes, found, first_due)
    damaged: list[str] = []
    while True:
        iteration, late = _newest_common(found), dict[int, int]()
        if not iteration and laggards:
            iteration, late = _with_laggards(found)
        needed = dict.fromkeys(found, iteration) | {ProcessId.agent(agent): own for agent, own in late.items()}
        broken = {process: reason for process in found if (reason := _damage(processes[process], needed[process]))}
        if not broken:
            break
        for process in broken:
            found[process].discard(needed[process])
        damaged += broken.values()
    refusal = "" if iteration or not anything else "; ".join([_who_has_what(found), *damaged])
    return ResumePoint(iteration, late, tuple(damaged), refusal)


def _ended_before_first(processes: Mapping[ProcessId, ProcessDirectory], found: _Found, first_due: int) -> bool:
    """Whether the run was killed before all had written their first checkpoint, so that it can only begin anew."""
    lacking = [processes[process] for process, own in found.items() if not own]
    young = all(iteration <= first_due for own in found.values() for iteration in own)
    return young and bool(lacking) and all(_never_saved(directory, first_due) for directory in lacking)


def _never_saved(directory: ProcessDirectory, first_due: int) -> bool:
    lines = directory.read_metrics()
    return bool(lines) and lines[-1]["iteration"] <= first_due and not directory.has_lost_checkpoints()


def _newest_common(found: _Found) -> int:
    return max(set.intersection(*found.values()), default=0)


def _with_laggards(found: _Found) -> tuple[int, dict[int, int]]:
    """The iteration at which the fewest agents are late, and their newest checkpoints; 0 if there is none."""
    agents = {process.number: own for process, own in found.items() if process.role is Role.AGENT}
    points = []
    for iteration in set.intersection(*(own for process, own in found.items() if process.role is not Role.AGENT)):
        late = {agent: max(own, default=0) for agent, own in agents.items() if iteration not in own}
        if len(late) < len(agents) and all(newest < iteration for newest in late.values()):
            points.append((iteration, late))
    return max(points, key=lambda point: (-len(point[1]), point[0]), default=(0, {}))


def _damage(directory: ProcessDirectory, iteration: int) -> str:
    """What is wrong with a checkpoint; empty if it is whole, or iteration 0, which needs none."""
    try:
        if iteration:
            directory.load_checkpoint(iteration)
    except DamagedCheckpointError as error:
        return str(error)
    return ""


def _who_has_what(found: _Found) -> str:
    """Every process's newest checkpoint in words; processes with the same are named together."""
    newest: dict[int, list[ProcessId]] = {}
    for process, own in found.items():
        newest.setdefault(max(own, default=0), []).append(process)
    return "; ".join(
        f"{_names(processes)} {'has' if len(processes) == 1 else 'have'} {iteration or 'none'}"
        for iteration, processes in sorted(newest.items())
    )


def _names(processes: Iterable[ProcessId]) -> str:
    agents = [process.number for process in processes if process.role is Role.AGENT]
    names = [process.name for process in processes if process.role is not Role.AGENT]
    if len(agents) > 2 and all(after == before + 1 for before, after in pairwise(agents)):
        names.append(f"agents {agents[0]} to {agents[-1]}")
    elif agents:
        names.append(f"agent{'s' if agents[1:] else ''} {', '.join(map(str, agents))}")
    return " and ".join(names)
