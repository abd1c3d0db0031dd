"""The progress of a run: iterations, steps, returns and phase, read from its metrics files alone."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median
from typing import Any

from matrpo.launch.screen.link_table import link_table
from matrpo.runs.json_lines import MetricsTail
from matrpo.runs.process_id import ProcessId
from matrpo.runs.run_directory import RunDirectory
from matrpo.settings import algorithm_names

_RECENT = 5
_ENDLESS = 1000
"""Steps of each environment after which an episode that has not ended is worth a word."""


class Progress:
    """The metrics of a run, read from its files by `poll`.

    Args:
        run: the run directory.

    Attributes:
        run: the run directory.
        returns: mean team return of each iteration, None where no episode ended.
        environment: the environment server's last line; empty before the first.
        agents: every agent's last line; empty before the first.
        trainer: the last line of an algorithm that trains centrally; empty before the first, and for one that does not.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.returns: dict[int, float | None] = {}
        self.environment: dict[str, Any] = {}
        self.agents: list[dict[str, Any]] = [{} for _ in range(run.num_agents)]
        self.trainer: dict[str, Any] = {}
        self._trainer_lines = _Lines(MetricsTail(run.trainer.metrics_path).take)
        self._environment_lines = _Lines(run.environment_tail().poll)
        self._agent_lines = [_Lines(MetricsTail(run.agent(agent).metrics_path).take) for agent in range(run.num_agents)]
        self._ends: deque[tuple[int, float]] = deque(maxlen=_RECENT + 1)

    def poll(self, last: float = math.inf) -> None:
        """Read what has been written since the last call, but no iteration after `last`."""
        for line in self._environment_lines.take(last):
            self.environment = line
            self.returns[line["iteration"]] = line.get("team_return_mean")
        for agent, lines in enumerate(self._agent_lines):
            for line in lines.take(last):
                self.agents[agent] = line
                if "time" in line and agent == min(set(range(len(self.agents))) - self.absent, default=agent):
                    self._ends.append((line["iteration"], line["time"]))
        for line in self._trainer_lines.take(last):
            self.trainer = line

    @property
    def is_central(self) -> bool:
        """Whether one process trains all agents."""
        return algorithm_names.is_central(self.run.config.algo)

    @property
    def topology(self) -> str | None:
        """The name of the communication graph; None if the algorithm has none."""
        config = self.run.config
        return config.topology if algorithm_names.entry(config.algo).graph else None

    @property
    def absent(self) -> set[int]:
        """The agents that did not take part in the last rollout.

        Lock step keeps those that did within an iteration of the environment server; and who has written of a later
        iteration will write no more of this one.
        """
        sampled = self.environment.get("iteration", 0)
        behind = set()
        for agent, (line, lines) in enumerate(zip(self.agents, self._agent_lines, strict=True)):
            missed = line.get("iteration", 0) < sampled < lines.newest
            if missed or lines.newest < self._environment_lines.newest - 1:
                behind.add(agent)
        return behind if len(behind) < len(self.agents) else set()

    @property
    def iteration(self) -> int:
        """The last iteration that every agent has finished, but for those that are absent."""
        absent = self.absent
        return min(int(line.get("iteration", 0)) for agent, line in enumerate(self.agents) if agent not in absent)

    @property
    def links(self) -> list[dict[str, Any]]:
        """The state and traffic of each link in the last iteration: see `link_table`."""
        return link_table(self.agents, self.absent)

    @property
    def steps(self) -> int:
        """Environment steps that every agent has learnt from."""
        return self.iteration * self.run.config.samples

    @property
    def total_steps(self) -> int:
        """Environment steps of the whole run; what is done, where its settings were changed to less by hand."""
        return max(self.run.config.iterations * self.run.config.samples, self.steps)

    @property
    def finished(self) -> bool:
        """Whether every agent has finished the last iteration."""
        return self.iteration >= self.run.config.iterations

    @property
    def steps_per_second(self) -> float | None:
        """Environment steps per second of wall clock: the median of the last few iterations."""
        durations = [(t1 - t0) / (i1 - i0) for (i0, t0), (i1, t1) in pairwise(self._ends) if i1 > i0 and t1 > t0]
        return self.run.config.samples / median(durations) if durations else None

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until the last iteration ends, at the present speed."""
        speed = self.steps_per_second
        return None if speed is None else (self.total_steps - self.steps) / speed

    @property
    def phase(self) -> str:
        """The run's present phase, in words for the user."""
        sampled = self.environment.get("iteration", 0)
        if self.finished:
            return "finished"
        if self.is_central:
            return f"rollout and update {self.iteration + 1}"
        if sampled == self.iteration:
            return f"rollout {sampled + 1}"
        ready = sum(line.get("iteration", 0) >= sampled for line in self.agents)
        present = len(self.agents) - len(self.absent)
        return f"update {sampled}, {ready} of {present} agents done"

    @property
    def latest_return(self) -> float | None:
        """Mean team return of the last iteration in which an episode ended."""
        return next((value for value in reversed(self.returns.values()) if value is not None), None)

    @property
    def endless(self) -> str:
        """A hint, if no episode has ended in many steps; "" otherwise."""
        steps = self.iteration * self.run.config.rollout_length
        if self.latest_return is not None or steps < _ENDLESS:
            return ""
        return f"no episode has ended in {steps:,} steps of each environment: --episode-length cuts episodes off"

    @property
    def best_return(self) -> float | None:
        """The largest mean team return of an iteration."""
        return max((value for value in self.returns.values() if value is not None), default=None)

    def summary(self) -> dict[str, Any]:
        """The state of the run as JSON values: what `matrpo status --json` prints."""
        now = time.time()
        trainer = {ProcessId.trainer().name: self.trainer} if self.is_central else {}
        agents = {ProcessId.agent(i).name: line for i, line in enumerate(self.agents)}
        lines = {ProcessId.server().name: self.environment, **trainer, **agents}
        ages = {name: now - line["time"] if "time" in line else None for name, line in lines.items()}
        return {
            "run": str(self.run.path),
            "task": self.run.config.task,
            "algo": self.run.config.algo,
            **({"topology": self.topology} if self.topology else {}),
            "agents": self.run.num_agents,
            "iteration": self.iteration,
            "iterations": self.run.config.iterations,
            "steps": self.steps,
            "total_steps": self.total_steps,
            "finished": self.finished,
            "phase": self.phase,
            "return_mean": self.latest_return,
            "return_best": self.best_return,
            "steps_per_second": self.steps_per_second,
            "checkpoint": self.run.latest_common_iteration(),
            "running": self.run.is_locked(),
            **({} if self.is_central else {"absent": sorted(self.absent), "links": self.links}),
            "processes": [{"name": name, "seconds_since_last_line": ages[name], "last": lines[name]} for name in lines],
        }


class _Lines:
    """The unread lines of a metrics file.

    Attributes:
        newest: the iteration of the last line in the file; 0 without any.
    """

    def __init__(self, poll: Callable[[], list[dict[str, Any]]]) -> None:
        self._poll = poll
        self._waiting: deque[dict[str, Any]] = deque()
        self.newest = 0

    def take(self, last: float) -> Iterator[dict[str, Any]]:
        """Yield the unread lines up to an iteration, each once."""
        self._waiting.extend(self._poll())
        if self._waiting:
            self.newest = int(self._waiting[-1]["iteration"])
        while self._waiting and self._waiting[0]["iteration"] <= last:
            yield self._waiting.popleft()
