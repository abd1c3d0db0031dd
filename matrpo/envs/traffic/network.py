"""A road network's traffic lights, read from SUMO's own file (`.net.xml`)."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

from matrpo.errors import ConfigError
from matrpo.spaces import Discrete, TaskSpec

EPISODE_LENGTH = 720
"""Steps of an episode: an hour."""


@dataclass(frozen=True)
class TrafficLight:
    """The traffic light of a junction.

    Attributes:
        name: SUMO's id of it.
        greens: the green phases among which its agent chooses, each a letter for every connection that it controls.
        lanes: the lanes that lead to it, in the order of those connections.
    """

    name: str
    greens: tuple[str, ...]
    lanes: tuple[str, ...]


@dataclass(frozen=True)
class Network:
    """The traffic lights of a road network.

    Attributes:
        lights: in the order of their names.
        roads: pairs of lights i < j between which some road leads past no other light.
    """

    lights: tuple[TrafficLight, ...]
    roads: tuple[tuple[int, int], ...]


def routes_beside(network: Path) -> Path:
    """The path of the routes that belong to a network `NAME.net.xml`: `NAME.rou.xml`."""
    return network.with_name(network.name.removesuffix(".net.xml") + ".rou.xml")


def traffic_spec(name: str, network: Network) -> TaskSpec:
    """The agents of a network: they see their green phase, whether it may change, and of each lane density and queue.

    Args:
        name: the task.
        network: its traffic lights.
    """
    return TaskSpec(
        name,
        agents=tuple(light.name for light in network.lights),
        observation_sizes=tuple(len(light.greens) + 1 + 2 * len(light.lanes) for light in network.lights),
        action_spaces=tuple(Discrete(len(light.greens)) for light in network.lights),
        episode_length=EPISODE_LENGTH,
        neighbours=network.roads,
    )


@cache
def read_network(path: Path) -> Network:
    """Read the traffic lights of a network.

    A light's green phases are those phases of its first program without yellow in which not all is red, as sumo-rl
    1.4.5 takes them.

    Raises:
        ConfigError: there is no such file, it is no network, or has no traffic light, or one that is never green.
    """
    contents = _Contents()
    try:
        for _, element in ElementTree.iterparse(path):
            contents.read(element)
    except OSError as error:
        raise ConfigError(f"'task': cannot read the network {path}: {error.strerror}") from None
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ConfigError(f"'task': {path} is no network of SUMO: {reason}") from None
    lights = tuple(
        TrafficLight(name, greens, tuple(dict.fromkeys(lane for _, lane in sorted(contents.lanes[name], key=_index))))
        for name, greens in sorted(contents.greens.items())
        if contents.lanes[name]
    )
    if not lights:
        raise ConfigError(f"'task': the network {path} has no traffic lights, and so no agents")
    for light in lights:
        if not light.greens:
            raise ConfigError(f"'task': traffic light {light.name!r} of {path} has no green phase to choose")
    return Network(lights, tuple(sorted(set(_roads(contents, [light.name for light in lights])))))


@dataclass
class _Contents:
    """What matters here of a network's file.

    Attributes:
        greens: the green phases of each light.
        lanes: the lanes that a light controls, each with the index of the connection.
        approaches: the roads that lead to a light.
        ends: the junction at which each road ends.
        leaving: the junctions that roads from a junction lead to.
    """

    greens: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lanes: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    approaches: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    ends: dict[str, str] = field(default_factory=dict)
    leaving: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def read(self, element: ElementTree.Element) -> None:
        """Take in an element that has been read to its end."""
        found = element.attrib
        if element.tag == "tlLogic":
            phases = [phase.attrib["state"] for phase in element.iter("phase")]
            self.greens.setdefault(found["id"], tuple(filter(is_green, phases)))
        elif element.tag == "connection" and "tl" in found:
            self.lanes[found["tl"]].append((int(found["linkIndex"]), f"{found['from']}_{found['fromLane']}"))
            self.approaches[found["tl"]].add(found["from"])
        elif element.tag == "edge" and "function" not in found:
            self.ends[found["id"]] = found["to"]
            self.leaving[found["from"]].add(found["to"])
        if element.tag in ("tlLogic", "connection", "edge", "junction"):
            element.clear()


def is_green(state: str) -> bool:
    """Whether a phase, a letter for each connection, lets some pass and clears none."""
    return "y" not in state and not set(state) <= set("rs")


def _index(controlled: tuple[int, str]) -> int:
    return controlled[0]


def _roads(contents: _Contents, lights: list[str]) -> Iterator[tuple[int, int]]:
    """Pairs of lights, the lesser number first, one of which is the first that is met on some way from the other."""
    at = {
        contents.ends[road]: number
        for number, light in enumerate(lights)
        for road in contents.approaches[light]
        if road in contents.ends
    }
    for junction, number in at.items():
        for other in _first_met(junction, at, contents.leaving):
            if other != number:
                yield min(number, other), max(number, other)


def _first_met(start: str, at: Mapping[str, int], leaving: Mapping[str, set[str]]) -> Iterator[int]:
    """The lights that are met first on the ways from a junction."""
    seen, waiting = {start}, deque([start])
    while waiting:
        for junction in leaving.get(waiting.popleft(), set()) - seen:
            seen.add(junction)
            if junction in at:
                yield at[junction]
            else:
                waiting.append(junction)
