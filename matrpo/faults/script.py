"""Fault scripts: YAML lists of the faults to inject into a run; each process injects its own share.

A script is a YAML file with one key, `faults`: a list of mappings. `do` names the fault; `from` (default: the start)
says when it begins, `until` or `for` (seconds) when it ends. A trigger is a mapping of `iteration`, `phase` (`rollout`
or `consensus`), `activation` (of the process's own in that iteration) and `seconds` since the process began; it is
reached when all that it names is. `every` repeats a fault with that period in seconds. Faults of messages name `links`
(default: all), `0-1` for both directions of a link and `0>1` for one.

- `drop`, `duplicate`, `reorder`, `corrupt`, `hostile`: with `probability` a message is lost, sent twice, overtaken by
  the next, sent with a bit flipped, or accompanied by garbage.
- `delay`: messages are `seconds` and up to `jitter` seconds more late.
- `limit`: a link's direction carries `bytes_per_second`.
- `partition`: nothing passes between the `groups`, lists of agents or `halves`.
- `kill`: the `process`, `agent 3`, `env-server` or `env-server 1`, kills itself with SIGKILL; the launcher starts it
  again after `restart_after` seconds, if given.
- `stop`: the `process` stands still (SIGSTOP) for the time given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from matrpo.errors import ConfigError
from matrpo.faults.fault import PHASES, Fault, Trigger
from matrpo.runs.process_id import ProcessId, in_order_of_ports
from matrpo.topology import CommunicationGraph

_CHANCES = ("drop", "duplicate", "reorder", "corrupt", "hostile")
_OWN_KEYS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_CHANCES, ("probability", "links")),
    "delay": ("seconds", "jitter", "links"),
    "limit": ("bytes_per_second", "links"),
    "partition": ("groups",),
    "kill": ("process", "restart_after"),
    "stop": ("process",),
}
_TIMES = ("from", "until", "for", "every")
_MOST = {"probability": 1.0, "seconds": 3600.0, "jitter": 3600.0, "bytes_per_second": 1e12, "restart_after": 3600.0}
_LIBRARY = resources.files("matrpo.faults") / "library"


@dataclass(frozen=True)
class FaultScript:
    """The faults to inject into a run."""

    faults: tuple[Fault, ...] = ()

    @classmethod
    def load(cls, name: str, graph: CommunicationGraph, num_servers: int = 1) -> FaultScript:
        """Read a script: a file, or the name of one that ships with matrpo.

        Raises:
            ConfigError: there is none, or it is not valid for this graph and so many environment servers; the text
                says where and why.
        """
        origin, text = f"fault script {name}", script_text(name)
        try:
            content = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict) or set(content) != {"faults"} or not isinstance(content["faults"], list):
            raise ConfigError(f"{origin}: expected one key, faults, with a list")
        processes = {process.name: process for process in in_order_of_ports(graph.num_agents, num_servers)}
        readers = [_Reader(origin, number, entry, graph) for number, entry in enumerate(content["faults"])]
        return cls(tuple(reader.read(processes) for reader in readers))

    def of_messages(self) -> list[Fault]:
        """The faults of messages."""
        return [fault for fault in self.faults if fault.acts_on_messages]

    def of_process(self, process: ProcessId) -> list[Fault]:
        """The faults of a process."""
        return [fault for fault in self.faults if fault.process == process]


def library() -> dict[str, str]:
    """The scripts that ship with matrpo: names, and the description in each one's first line."""
    files = sorted((item for item in _LIBRARY.iterdir() if item.name.endswith(".yaml")), key=lambda item: item.name)
    return {item.name.removesuffix(".yaml"): item.read_text().splitlines()[0].lstrip("# ") for item in files}


def script_text(name: str) -> str:
    """The text of a script: a file, or one that ships with matrpo.

    Raises:
        ConfigError: there is none.
    """
    if name in library():
        return (_LIBRARY / f"{name}.yaml").read_text()
    if not Path(name).is_file():
        raise ConfigError(f"--faults {name}: no such file, and not one of {', '.join(library())}")
    try:
        return Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read fault script {name}: {error}") from None


class _Reader:
    """Parser of one entry of a script."""

    def __init__(self, origin: str, number: int, entry: Any, graph: CommunicationGraph) -> None:
        self._where = f"{origin}, fault {number + 1}"
        self._number = number
        self._graph = graph
        if not isinstance(entry, dict) or entry.get("do") not in _OWN_KEYS:
            raise self._error(f"needs a key 'do' with one of {', '.join(_OWN_KEYS)}")
        self._kind = str(entry["do"])
        self._entry = {str(key): value for key, value in entry.items() if key != "do"}
        for key in self._entry:
            if key not in (*_OWN_KEYS[self._kind], *_TIMES):
                raise self._error(f"{self._kind} has no key {key!r}; it takes {', '.join(_OWN_KEYS[self._kind])}")

    def read(self, processes: Mapping[str, ProcessId]) -> Fault:
        kind, entry = self._kind, self._entry
        if "until" in entry and "for" in entry:
            raise self._error("takes 'until' or 'for', not both")
        if "every" in entry and "for" not in entry:
            raise self._error("'every' needs 'for': how long it lasts each time")
        if kind == "stop" and "for" not in entry:
            raise self._error("stop needs 'for': after how many seconds it goes on")
        process = self._process(processes) if kind in ("kill", "stop") else None
        return Fault(
            number=self._number,
            kind=kind,
            begin=self._trigger("from"),
            end=self._trigger("until") if "until" in entry else None,
            lasts=self._amount("for", 1e9) if "for" in entry else None,
            every=self._amount("every", 1e9) if "every" in entry else None,
            directions=frozenset() if process else self._directions(),
            process=process,
            amounts=self._amounts(),
        )

    def _amounts(self) -> dict[str, float]:
        needed = {"delay": ("seconds",), "limit": ("bytes_per_second",)} | dict.fromkeys(_CHANCES, ("probability",))
        for key in needed.get(self._kind, ()):
            if key not in self._entry:
                raise self._error(f"{self._kind} needs {key!r}")
        return {key: self._amount(key, most) for key, most in _MOST.items() if key in self._entry}

    def _amount(self, key: str, most: float) -> float:
        value = self._entry[key]
        if type(value) not in (int, float) or not 0 <= value <= most:
            raise self._error(f"{key} must be a number from 0 to {most:g}, not {value!r}")
        return float(value)

    def _trigger(self, key: str) -> Trigger:
        value = self._entry.get(key, {})
        if not isinstance(value, dict) or not set(value) <= {"iteration", "phase", "activation", "seconds"}:
            raise self._error(f"{key} must be a mapping of iteration, phase, activation and seconds, not {value!r}")
        for name in ("iteration", "activation"):
            if type(value.get(name, 0)) is not int or value.get(name, 0) < 0:
                raise self._error(f"{key}: {name} must be a whole number, not {value[name]!r}")
        if type(value.get("seconds", 0)) not in (int, float) or not value.get("seconds", 0) >= 0:
            raise self._error(f"{key}: seconds must be a number, not {value['seconds']!r}")
        if value.get("phase", PHASES[0]) not in PHASES:
            raise self._error(f"{key}: phase must be one of {', '.join(PHASES)}, not {value['phase']!r}")
        phase = "consensus" if "activation" in value else PHASES[0]
        return Trigger(**{"phase": phase, **value})

    def _process(self, processes: Mapping[str, ProcessId]) -> ProcessId:
        name = self._entry.get("process")
        if not isinstance(name, str) or name not in processes:
            servers = [name for name, process in processes.items() if process.is_server]
            expected = f"{', '.join(servers)} or agent 0 to agent {self._graph.num_agents - 1}"
            raise self._error(f"process must be {expected}, not {name!r}")
        return processes[name]

    def _directions(self) -> frozenset[tuple[int, int]]:
        everything = [pair for i, j in self._graph.links for pair in ((i, j), (j, i))]
        if self._kind == "partition":
            side = self._sides()
            return frozenset((i, j) for i, j in everything if side[i] != side[j])
        if "links" not in self._entry:
            return frozenset(everything)
        names = self._entry["links"]
        if not isinstance(names, list):
            raise self._error(f"links must be a list such as [0-1, 1>2], not {names!r}")
        return frozenset(pair for name in names for pair in self._link(name))

    def _link(self, name: Any) -> list[tuple[int, int]]:
        text = str(name)
        one_way = ">" in text
        first, _, second = text.partition(">" if one_way else "-")
        if not (first.isdecimal() and second.isdecimal()):
            raise self._error(f"link {text!r} must look like 0-1 or 0>1")
        pair = (int(first), int(second))
        if (min(pair), max(pair)) not in self._graph.links:
            raise self._error(f"there is no link {text} in {self._graph.name}")
        return [pair] if one_way else [pair, pair[::-1]]

    def _sides(self) -> list[int]:
        agents, groups = self._graph.num_agents, self._entry.get("groups")
        if groups == "halves":
            return [int(2 * agent >= agents) for agent in range(agents)]
        if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
            groups = []
        if sorted((agent for group in groups for agent in group), key=str) != sorted(range(agents), key=str):
            raise self._error(f"groups must be halves, or lists that hold each of the agents 0 to {agents - 1} once")
        return [next(side for side, group in enumerate(groups) if agent in group) for agent in range(agents)]

    def _error(self, reason: str) -> ConfigError:
        return ConfigError(f"{self._where}: {reason}")
